"""A random tiny model of every known type and made-up examples, for tests of the latent engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from mirage_core.latent.examples import IGNORED, EncodedExample, EncodedPrompt, no_grids, no_pixels
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.backbone import Backbone

IDS = TokenIds(
    latent_start=501,
    latent_pad=502,
    latent_end=503,
    image_pad=504,
    video_pad=505,
    vision_start=506,
    vision_end=507,
    end_of_turn=508,
    pad=509,
)
TEXT_IDS = 500  # ids below are ordinary text
HIDDEN = 64
KINDS = ("qwen2_5_vl", "qwen3_vl")
Size = tuple[int, int]  # an image in merged patches, height and width


def tiny_config(**text: object) -> Qwen2_5_VLConfig:
    """Window attention in the first vision layer, full attention in the second; grouped keys and values."""
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 512,
            "hidden_size": HIDDEN,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
            "initializer_range": 0.12,
            "bos_token_id": None,
            "eos_token_id": IDS.end_of_turn,
            "pad_token_id": IDS.pad,
            **text,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [1],
            "window_size": 56,
            "initializer_range": 0.1,
        },
        image_token_id=IDS.image_pad,
        video_token_id=IDS.video_pad,
        vision_start_token_id=IDS.vision_start,
        vision_end_token_id=IDS.vision_end,
        tie_word_embeddings=False,
    )


def tiny_qwen3_config() -> Qwen3VLConfig:
    """DeepStack from both vision layers to the first two of three decoder layers; patches of 14 px as above."""
    return Qwen3VLConfig(
        text_config={
            "vocab_size": 512,
            "hidden_size": HIDDEN,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 24,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 4, 4]},
            "initializer_range": 0.12,
            "bos_token_id": None,
            "eos_token_id": IDS.end_of_turn,
            "pad_token_id": IDS.pad,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 14,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0, 1],
            "initializer_range": 0.1,
        },
        image_token_id=IDS.image_pad,
        video_token_id=IDS.video_pad,
        vision_start_token_id=IDS.vision_start,
        vision_end_token_id=IDS.vision_end,
        tie_word_embeddings=False,
    )


@lru_cache(maxsize=8)
def tiny_backbone(attention: str = "sdpa", kind: str = "qwen2_5_vl") -> Backbone:
    """The same random weights every time, vision frozen. ``kind``: its model_type."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny_model(kind, attention)
    backbone = Backbone(model.eval())
    backbone.freeze_vision()
    return backbone


def tiny_model(kind: str = "qwen2_5_vl", attention: str = "sdpa") -> PreTrainedModel:
    """A stock model with random weights."""
    config = tiny_config() if kind == "qwen2_5_vl" else tiny_qwen3_config()
    config._attn_implementation = attention
    stock = Qwen2_5_VLForConditionalGeneration if kind == "qwen2_5_vl" else Qwen3VLForConditionalGeneration
    return stock(config)


class Maker:
    """Makes examples out of a seed."""

    def __init__(self, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed)

    def text(self, length: int) -> Tensor:
        """Ordinary ids [length]."""
        return torch.randint(0, TEXT_IDS, (length,), generator=self._random)

    def image(self, size: Size) -> tuple[Tensor, Tensor]:
        """Patches and grid of one image of ``size`` merged patches."""
        height, width = size
        pixels = torch.randn(4 * height * width, 1176, generator=self._random)
        return pixels, torch.tensor([[1, 2 * height, 2 * width]])

    def prompt(self, before: int = 4, images: Sequence[Size] = ((2, 3),), after: int = 5) -> EncodedPrompt:
        """Text, images, text."""
        parts, pixels, grids = [self.text(before)], [no_pixels()], [no_grids()]
        for size in images:
            patches, grid = self.image(size)
            parts += [torch.tensor([IDS.vision_start, *[IDS.image_pad] * (size[0] * size[1]), IDS.vision_end])]
            pixels, grids = [*pixels, patches], [*grids, grid]
        all_pixels = torch.cat(pixels[1:]) if images else no_pixels()
        return EncodedPrompt(
            ids=torch.cat([*parts, self.text(after)]), pixel_values=all_pixels, grid_thw=torch.cat(grids)
        )

    def example(
        self,
        prompt: EncodedPrompt | None = None,
        segments: Sequence[int] = (0, 6),
        latents: int = 3,
        auxiliary: Size = (3, 3),
    ) -> EncodedExample:
        """An answer of text segments with a span between each two (one segment: no span)."""
        prompt = prompt or self.prompt()
        answer, pixels, grids = [self.text(segments[0])], [], [no_grids()]
        for length in segments[1:]:
            answer += [torch.tensor([IDS.latent_start, *[IDS.latent_pad] * latents, IDS.latent_end]), self.text(length)]
            patches, grid = self.image(auxiliary)
            pixels, grids = [*pixels, patches], [*grids, grid]
        tokens = torch.cat([*answer, torch.tensor([IDS.end_of_turn])])
        labels = torch.where(tokens == IDS.latent_pad, IGNORED, tokens)
        return EncodedExample(
            ids=torch.cat([prompt.ids, tokens]),
            labels=torch.cat([torch.full_like(prompt.ids, IGNORED), labels]),
            pixel_values=prompt.pixel_values,
            grid_thw=prompt.grid_thw,
            auxiliary_pixel_values=torch.cat(pixels) if pixels else no_pixels(),
            auxiliary_grid_thw=torch.cat(grids),
        )


def mixed_examples(seed: int = 0, latents: int = 3) -> list[EncodedExample]:
    """Rows that have little in common: late, early, no and two spans; none, one and two images of several sizes."""
    make = Maker(seed)
    return [
        make.example(make.prompt(), (0, 6), latents),
        make.example(make.prompt(9, [(3, 4), (2, 2)], 11), (7, 3), latents, (4, 3)),
        make.example(make.prompt(3, [(4, 2)], 4), (12,), latents),
        make.example(make.prompt(2, [(5, 3)], 3), (2, 4, 5), latents, (3, 4)),
        make.example(make.prompt(6, [], 2), (3, 9), latents),
    ]
