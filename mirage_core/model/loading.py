"""Where models come from and go to: from scratch, a folder or a hub id; saved as a Hugging Face folder.

A model folder holds config.json, safetensors (sharded when large), tokenizer and image processor, and mirage.json,
which says how the model was made and is to be used. It loads with no hub, and its bytes depend on the weights only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from transformers import PreTrainedModel, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging as transformers_logging

from mirage_core.config import ArchitectureSettings, ModelSettings
from mirage_core.errors import SettingsError
from mirage_core.latent.tokens import TokenIds, add_latent_tokens, name_latent_tokens, token_ids
from mirage_core.model.backbone import Backbone
from mirage_core.model.backbones import inside_class
from mirage_core.model.card import CARD_FILE, model_card
from mirage_core.model.processing import ImageTextProcessor, build_processor, load_processor, save_processor
from mirage_core.model.weights import (
    ADAPTER_FOLDER,
    Gather,
    adapter_weights,
    collected,
    plain_weights,
    save_adapter,
    whole,
)

FROM_SCRATCH = "from_scratch"
ABOUT_FILE = "mirage.json"
LARGEST_SHARD = "4GB"
_RELEASED_IDS = {"latent_token_id": "latent_pad", "latent_start_id": "latent_start", "latent_end_id": "latent_end"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja")  # no pickled weights, no code
_PROCESSOR_FILES = ("*.json", "*.txt", "*.jinja")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for use: its backbone, its processor, the ids of its tokens, and what mirage.json said."""

    backbone: Backbone
    processor: ImageTextProcessor
    ids: TokenIds
    about: dict[str, Any] = field(default_factory=dict)


def build_base(settings: ModelSettings, seed: int) -> LoadedModel:
    """The base model of a recipe: random and from scratch, or loaded from ``settings.source``.

    The same seed gives the same weights. Raises SettingsError for sizes that do not fit together.
    """
    if settings.source != FROM_SCRATCH:
        return load_model(
            settings.source, dtype=settings.dtype, attention=settings.attention, revision=settings.revision
        )
    processor = build_processor(settings.architecture.vocab_size)
    ids = token_ids(processor.tokenizer)
    config = scratch_config(settings.architecture, ids, settings.dtype)
    config._attn_implementation = settings.attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    return LoadedModel(Backbone(model.to(_dtype(settings.dtype))), processor, ids, {"source": FROM_SCRATCH})


def scratch_config(sizes: ArchitectureSettings, ids: TokenIds, dtype: str = "float32") -> Qwen2_5_VLConfig:
    """The configuration of a small Qwen2.5-VL: full attention in every vision layer, M-RoPE in the text model.

    Raises SettingsError when heads do not divide the hidden size, or the M-RoPE section does not fill half a head.
    """
    _check_sizes(sizes)
    text = {
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_kv_heads,
        "max_position_embeddings": 4096,
        "initializer_range": sizes.initializer_range,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": list(sizes.mrope_section),
        },
        "bos_token_id": None,
        "eos_token_id": ids.end_of_turn,
        "pad_token_id": ids.pad,
        "dtype": dtype,
    }
    vision = {
        "depth": sizes.vision_depth,
        "hidden_size": sizes.vision_hidden_size,
        "intermediate_size": sizes.vision_intermediate_size,
        "num_heads": sizes.vision_num_heads,
        "out_hidden_size": sizes.hidden_size,
        "fullatt_block_indexes": list(range(sizes.vision_depth)),
        "initializer_range": sizes.initializer_range,
        "dtype": dtype,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids.image_pad,
        video_token_id=ids.video_pad,
        vision_start_token_id=ids.vision_start,
        vision_end_token_id=ids.vision_end,
        tie_word_embeddings=False,
    )


def load_model(
    source: str | Path,
    dtype: str = "float32",
    attention: str = "sdpa",
    revision: str | None = None,
    device: torch.device | None = None,
) -> LoadedModel:
    """The model in a folder or under a hub id, with latent tokens added where it has none.

    Weights go straight to ``device`` (the CPU by default) in ``dtype``, one after the other: main memory never holds
    a whole model that is meant for a GPU, nor one in another type.

    Where the vocabulary is padded, as Qwen's is, the latent tokens take spare rows as they are (so does the released
    code); where it has to grow, the new rows are the mean of the others. Their meaning is learned in stage 1.

    Folders that stock transformers wrote are read, and those that the released code did: flat config.json and names of
    weights of transformers 4.50, no preprocessor_config.json (the image settings are then the published Qwen2.5-VL's).

    Raises SettingsError naming the source when the folder is missing, the hub does not have it or does not answer,
    its model is of an unknown type, or its files are not complete or contradict each other.
    """
    folder = _folder_of(source, revision)
    config = _config(folder)
    stock_class = inside_class(config["model_type"]).stock_class
    processor = load_processor(folder, _patches(config) if _is_released(config) else None)
    model = _stock_model(stock_class, folder, dtype, attention, device or torch.device("cpu"))
    _check_latent_ids(folder, config, add_latent_tokens(processor.tokenizer, model))
    if folder.parent.name == "snapshots":
        model.config._commit_hash = folder.name  # the hub's cache is laid out so; it is lost on loading from a folder
    return LoadedModel(Backbone(model), processor, token_ids(processor.tokenizer), _read_about(folder))


def save_model(
    folder: Path,
    backbone: Backbone,
    processor: ImageTextProcessor,
    about: Mapping[str, Any],
    *,
    gather: Gather = whole,
    writes: bool = True,
) -> None:
    """Write a model folder: weights, configuration, processor, ``about`` (JSON) as mirage.json, and a card of it.

    Adapters are folded into the weights, and stand alone in ``adapter/`` too, in peft's form. Under ZeRO-3 every
    process calls this with the same ``gather``, which makes a few weights whole at a time; one of them ``writes``.
    """
    weights = collected(plain_weights(backbone.model), gather, keep=writes)
    adapters = collected(adapter_weights(backbone.model), gather, keep=writes)
    if not writes:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with _without_bars():
        backbone.model.save_pretrained(folder, state_dict=weights, max_shard_size=LARGEST_SHARD)
    if adapters:
        save_adapter(folder / ADAPTER_FOLDER, backbone, adapters)
    save_processor(folder, processor)
    text = json.dumps(dict(about), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / ABOUT_FILE).write_text(text + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(model_card(about), encoding="utf-8")


def load_processor_of(settings: ModelSettings) -> ImageTextProcessor:
    """The processor of a recipe's base model, with the latent tokens; of a hub id only the small files are fetched.

    Raises SettingsError as ``load_model`` does.
    """
    if settings.source == FROM_SCRATCH:
        return build_processor(settings.architecture.vocab_size)
    folder = _folder_of(settings.source, settings.revision, _PROCESSOR_FILES)
    config = _config(folder)
    processor = load_processor(folder, _patches(config) if _is_released(config) else None)
    name_latent_tokens(processor.tokenizer)
    return processor


def _folder_of(source: str | Path, revision: str | None, files: tuple[str, ...] = _HUB_FILES) -> Path:
    """The local folder of a source: itself, or a snapshot of a hub id (fetched unless it is cached)."""
    text = str(source)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(source, Path) or not _HUB_ID.fullmatch(text):
        raise SettingsError(
            f"model.source is {text}, which is no folder; give a model folder, a hub id or from_scratch."
        )
    try:
        return Path(huggingface_hub.snapshot_download(text, revision=revision, allow_patterns=list(files)))
    except Exception as fault:
        # The hub's client raises errors of many kinds (its own, of HTTP, of the network, of the disk).
        raise SettingsError(
            f"{text} is no folder here and could not be fetched from the hub: {_first_line(fault)} "
            "Check the id and the network, or set model.source to a folder or to from_scratch."
        ) from fault


def _config(folder: Path) -> dict[str, Any]:
    """config.json of a folder; refused where its type is unknown: stock code would build a model of default sizes."""
    file = folder / "config.json"
    if not file.is_file():
        raise SettingsError(f"{folder} has no config.json, so it is no model folder; set model.source to one.")
    config = _read_object(file)
    try:
        inside_class(config.get("model_type"))
    except SettingsError as fault:
        raise SettingsError(f"{file} cannot be used. {fault}") from fault
    return config


def _is_released(config: Mapping[str, Any]) -> bool:
    """Whether the released code wrote this config.json: it adds the latent ids."""
    return any(name in config for name in _RELEASED_IDS)


def _patches(config: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of patches as config.json says them, for an image processor."""
    vision, renamed = config.get("vision_config", {}), {"merge_size": "spatial_merge_size"}
    names = {name: renamed.get(name, name) for name in ("patch_size", "temporal_patch_size", "merge_size")}
    return {name: vision[written] for name, written in names.items() if written in vision}


def _stock_model(
    stock_class: type[PreTrainedModel], folder: Path, dtype: str, attention: str, device: torch.device
) -> PreTrainedModel:
    """The stock model in a folder; remote code is never run, weights are safetensors only."""
    try:
        with _without_bars():
            model, report = stock_class.from_pretrained(
                folder,
                dtype=_dtype(dtype),
                attn_implementation=attention,
                device_map=None if device.type == "cpu" else {"": device},  # a map needs accelerate
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as fault:
        # Broken JSON, wrong sizes, a damaged or missing shard: transformers raises errors of many kinds.
        raise SettingsError(
            f"No {stock_class.__name__} could be read from {folder}: {_first_line(fault)} Expected config.json and "
            "*.safetensors; fetch the folder again, or set model.source to another or to from_scratch."
        ) from fault
    _check_complete(folder, report)
    return model  # type: ignore[no-any-return]


def _check_complete(folder: Path, report: Mapping[str, Any]) -> None:
    """Stock loading only warns of missing weights and goes on with random ones; here that is an error."""
    missing = sorted(str(name) for name in report.get("missing_keys", ()))
    wrong = sorted(str(name) for name in report.get("mismatched_keys", ()))
    if missing or wrong:
        raise SettingsError(
            f"{folder} is not a complete model: {len(missing)} weights are missing {missing[:3]}, "
            f"{len(wrong)} have another shape than config.json says {wrong[:3]}; fetch the folder again."
        )


def _check_latent_ids(folder: Path, config: Mapping[str, Any], ids: TokenIds) -> None:
    """The released code writes the latent ids into config.json too; a tokenizer of another model would go unnoticed."""
    for name, found in _RELEASED_IDS.items():
        written, read = config.get(name), getattr(ids, found)
        if written is not None and written != read:
            raise SettingsError(
                f"{folder / 'config.json'} says {name} {written}, but its tokenizer has {found} at {read}. "
                "Put the tokenizer that the model was trained with into the folder."
            )


@contextmanager
def _without_bars() -> Iterator[None]:
    """Stock progress bars off inside the block: a worker's output is a log."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _read_about(folder: Path) -> dict[str, Any]:
    """What mirage.json in a folder says; empty for a model this project did not make."""
    file = folder / ABOUT_FILE
    return _read_object(file) if file.is_file() else {}


def _read_object(file: Path) -> dict[str, Any]:
    """A JSON object of a model folder; SettingsError names the file."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise SettingsError(f"{file} is not JSON ({_first_line(fault)}); fetch the model folder again.") from fault
    if not isinstance(found, dict):
        raise SettingsError(f"{file} holds a {type(found).__name__}, expected an object; fetch the model folder again.")
    return found


def _check_sizes(sizes: ArchitectureSettings) -> None:
    """Refuse sizes that stock code would fail on far away from their cause."""
    head = sizes.hidden_size // sizes.num_heads
    vision_head = sizes.vision_hidden_size // sizes.vision_num_heads
    wrong = {
        f"hidden_size {sizes.hidden_size} must be a multiple of num_heads {sizes.num_heads}": sizes.hidden_size
        % sizes.num_heads,
        f"num_heads {sizes.num_heads} must be a multiple of num_kv_heads {sizes.num_kv_heads}": sizes.num_heads
        % sizes.num_kv_heads,
        f"mrope_section {sizes.mrope_section} must sum to half a head, {head // 2}": 2 * sum(sizes.mrope_section)
        != head,
        f"vision_hidden_size {sizes.vision_hidden_size} must give heads of a multiple of 4": vision_head % 4
        or sizes.vision_hidden_size % sizes.vision_num_heads,
    }
    for sentence, broken in wrong.items():
        if broken:
            raise SettingsError(f"model.architecture: {sentence}.")


def _dtype(name: str) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def _first_line(fault: Exception) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]
