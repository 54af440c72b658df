"""A checkpoint folder as the released code leaves it behind: its trainer's, with its fork of transformers 4.50.

Flat config.json with the latent ids and the training settings, weights under the fork's names (in shards when large),
a tokenizer with the tokens added, and no image processor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import AddedToken, pre_tokenizers
from torch import Tensor
from transformers import Qwen2Tokenizer

from mirage_core.latent.tokens import TokenIds
from mirage_core.model.tokenizer import CHAT_TEMPLATE

EXTRA = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "compress_strategy": "average",
    "latent_size": 4,
    "stage": "stage2",
    "torch_dtype": "float32",
    "transformers_version": "4.50.0.dev0",
}
TOKENS = {
    "latent_pad": "<|latent_pad|>", "latent_start": "<|latent_start|>", "latent_end": "<|latent_end|>",
    "image_pad": "<|image_pad|>", "video_pad": "<|video_pad|>", "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>", "end_of_turn": "<|im_end|>", "pad": "<|endoftext|>",
}  # fmt: skip


def write_released(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor], ids: TokenIds, shards: int = 1
) -> None:
    """Write such a folder."""
    (folder / "config.json").write_text(json.dumps({**config, **EXTRA}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids.end_of_turn, "do_sample": True}))
    write_weights(folder, weights, shards)
    write_tokenizer(folder, ids, int(config["vocab_size"]))


def write_weights(folder: Path, weights: Mapping[str, Tensor], shards: int) -> None:
    """One file, or several and an index."""
    if shards == 1:
        save_file(dict(weights), folder / "model.safetensors", {"format": "pt"})
        return
    places = {}
    for shard in range(shards):
        part = {name: weights[name] for name in sorted(weights)[shard::shards]}
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        save_file(part, folder / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": sum(weight.nbytes for weight in weights.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_tokenizer(folder: Path, ids: TokenIds, size: int, names: Mapping[str, str] = TOKENS) -> None:
    """Bytes, filler and the special tokens at their ids; the chat template in tokenizer_config.json."""
    special = {getattr(ids, name): token for name, token in names.items()}
    alphabet = iter(sorted(pre_tokenizers.ByteLevel.alphabet()))
    vocabulary = {special.get(index) or next(alphabet, f"filler{index}"): index for index in range(size)}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary, merges=[], eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special.values()])
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": CHAT_TEMPLATE}))
