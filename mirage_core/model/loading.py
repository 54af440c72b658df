"""Build, load and save models: from scratch, from a folder or a hub id; saved as a Hugging Face folder.

A model folder has config.json, safetensors (sharded when large), tokenizer and image processor, a card, and mirage.json
with how the model was trained and is to be used. It loads without the hub; its bytes are a function of the model.
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
from pydantic import ValidationError
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging as transformers_logging

from mirage_core.config import ArchitectureSettings, LatentSettings, ModelSettings
from mirage_core.errors import SettingsError
from mirage_core.json_values import read_json
from mirage_core.latent.span_tokens import authors_metadata, span_family
from mirage_core.latent.tokens import (
    TokenIds,
    add_latent_tokens,
    add_query_tokens,
    add_visual_tokens,
    name_latent_tokens,
    token_ids,
)
from mirage_core.model.backbone import Backbone
from mirage_core.model.backbones import adapter_class
from mirage_core.model.card import ABOUT_FILE, CARD_FILE, model_card
from mirage_core.model.codes import load_code_reader
from mirage_core.model.export import ADAPTER_FOLDER
from mirage_core.model.other_authors import authors_readout
from mirage_core.model.processing import ImageTextProcessor, build_processor, load_processor, save_processor
from mirage_core.model.readout import load_readout
from mirage_core.model.weights import (
    Gather,
    adapter_weights,
    collect_weights,
    merged_weights,
    no_gather,
    save_adapter,
)

FROM_SCRATCH = "from_scratch"
LARGEST_SHARD = "4GB"
_RELEASED_IDS = {"latent_token_id": "latent_pad", "latent_start_id": "latent_start", "latent_end_id": "latent_end"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja")  # no pickled weights, no code
_PROCESSOR_FILES = ("*.json", "*.txt", "*.jinja")


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model: backbone, processor, ids of its special tokens, and the content of mirage.json.

    ``readout`` reads what is fed as a latent off a hidden state; None: the state itself, or a token.
    """

    backbone: Backbone
    processor: ImageTextProcessor
    ids: TokenIds
    about: dict[str, Any] = field(default_factory=dict)
    readout: nn.Module | None = None


def build_base_model(settings: ModelSettings, seed: int) -> LoadedModel:
    """Build the base model of a recipe: randomly initialized, or loaded from ``settings.source``.

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
    """Return the configuration of a small Qwen2.5-VL: full attention in every vision layer, M-RoPE in the text model.

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
    query_tokens: int = 0,
    visual_tokens: int = 0,
) -> LoadedModel:
    """Load the model of a folder or a hub id; adds latent tokens where it has none, and query tokens and tokens of
    visual codes up to so many.

    Weights are loaded directly to ``device`` (default: CPU) in ``dtype``, one after the other: main memory never holds
    a whole model that is meant for a GPU, nor one in another type.

    Where the vocabulary is padded, as Qwen's is, the latent tokens use spare rows unchanged (as in the released code);
    where it has to grow, the new rows are the mean of the others. Their meaning is learned in stage 1.

    Reads folders of stock transformers, of LVR's and Monet's released models (which are decoded by their authors' rule)
    and of Mirage's released code: flat config.json and weight names of transformers
    4.50, no preprocessor_config.json (the image settings are then those published for Qwen2.5-VL).

    Raises SettingsError naming the source when the folder is missing, the hub does not have it or does not answer,
    its model type is unknown, or its files are incomplete or contradict each other.
    """
    folder = _local_folder(source, revision)
    config = _read_config(folder)
    stock_class = adapter_class(config["model_type"]).stock_class
    processor = load_processor(folder, _patches(config) if _is_released(config) else None)
    model = _stock_model(stock_class, folder, dtype, attention, device or torch.device("cpu"))
    _check_latent_ids(folder, config, add_latent_tokens(processor.tokenizer, model))
    add_query_tokens(processor.tokenizer, model, query_tokens)
    add_visual_tokens(processor.tokenizer, model, visual_tokens)
    if folder.parent.name == "snapshots":
        model.config._commit_hash = folder.name  # the hub's cache is laid out so; it is lost on loading from a folder
    about = _read_about(folder) or authors_metadata(span_family(processor.tokenizer.get_vocab()))
    backbone = Backbone(model)
    readout = _readout(folder, backbone, about)
    return LoadedModel(backbone, processor, token_ids(processor.tokenizer), about, readout)


def save_model(
    folder: Path,
    backbone: Backbone,
    processor: ImageTextProcessor,
    about: Mapping[str, Any],
    *,
    gather: Gather = no_gather,
    write: bool = True,
) -> None:
    """Write a model folder: weights, configuration, processor, ``about`` as mirage.json, and its card.

    Adapters are merged into the weights, and also saved in ``adapter/`` in peft's format. Under ZeRO-3 every process
    calls this with the same ``gather``, which gathers a few weights at a time; one process has ``write`` set.
    """
    weights = collect_weights(merged_weights(backbone.model), gather, store=write)
    adapters = collect_weights(adapter_weights(backbone.model), gather, store=write)
    if not write:
        return
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(folder, backbone, weights)
    if adapters:
        save_adapter(folder / ADAPTER_FOLDER, backbone, adapters)
    save_processor(folder, processor)
    text = json.dumps(dict(about), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / ABOUT_FILE).write_text(text + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(model_card(about), encoding="utf-8")


def save_weights(folder: Path, backbone: Backbone) -> None:
    """Write a model's weights and configuration alone, adapters merged, all of them being in this process."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(folder, backbone, collect_weights(merged_weights(backbone.model), no_gather, store=True))


def _write_weights(folder: Path, backbone: Backbone, weights: dict[str, Tensor]) -> None:
    with _no_progress_bars():
        backbone.model.save_pretrained(folder, state_dict=weights, max_shard_size=LARGEST_SHARD)


def load_base_processor(settings: ModelSettings) -> ImageTextProcessor:
    """Load the processor of a recipe's base model, with the latent tokens; of a hub id only small files are fetched.

    Raises SettingsError as ``load_model`` does.
    """
    if settings.source == FROM_SCRATCH:
        return build_processor(settings.architecture.vocab_size)
    folder = _local_folder(settings.source, settings.revision, _PROCESSOR_FILES)
    config = _read_config(folder)
    processor = load_processor(folder, _patches(config) if _is_released(config) else None)
    name_latent_tokens(processor.tokenizer)
    return processor


def _local_folder(source: str | Path, revision: str | None, files: tuple[str, ...] = _HUB_FILES) -> Path:
    """Return the local folder of a source: itself, or a snapshot of a hub id (fetched unless cached)."""
    text = str(source)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(source, Path) or not _HUB_ID.fullmatch(text):
        raise SettingsError(
            f"model.source is {text}, which is no folder; set it to a model folder, a hub id or from_scratch."
        )
    try:
        return Path(huggingface_hub.snapshot_download(text, revision=revision, allow_patterns=list(files)))
    except Exception as error:
        # The hub's client raises its own errors, and those of HTTP, network and disk.
        raise SettingsError(
            f"{text} is no folder here and could not be fetched from the hub: {_first_line(error)} "
            "Check the id and the network, or set model.source to a folder or to from_scratch."
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    """Read config.json; SettingsError for an unknown type, of which stock code would build a model of default sizes."""
    file = folder / "config.json"
    if not file.is_file():
        raise SettingsError(f"{folder} has no config.json, so it is no model folder; set model.source to one.")
    config = _read_object(file)
    try:
        adapter_class(config.get("model_type"))
    except SettingsError as error:
        raise SettingsError(f"{file} cannot be used. {error}") from error
    return config


def _is_released(config: Mapping[str, Any]) -> bool:
    """Return whether the released code wrote this config.json: it adds the latent ids."""
    return any(name in config for name in _RELEASED_IDS)


def _patches(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the patch sizes of config.json, for an image processor."""
    vision, renamed = config.get("vision_config", {}), {"merge_size": "spatial_merge_size"}
    names = {name: renamed.get(name, name) for name in ("patch_size", "temporal_patch_size", "merge_size")}
    return {name: vision[key] for name, key in names.items() if key in vision}


def _stock_model(
    stock_class: type[PreTrainedModel], folder: Path, dtype: str, attention: str, device: torch.device
) -> PreTrainedModel:
    """Load the stock model of a folder; remote code is never run, weights are safetensors only."""
    try:
        with _no_progress_bars():
            model, report = stock_class.from_pretrained(
                folder,
                dtype=_dtype(dtype),
                attn_implementation=attention,
                device_map=None if device.type == "cpu" else {"": device},  # a map needs accelerate
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:
        # Broken JSON, wrong sizes, a damaged or missing shard: transformers raises many kinds of errors.
        raise SettingsError(
            f"No {stock_class.__name__} could be read from {folder}: {_first_line(error)} Expected config.json and "
            "*.safetensors; fetch the folder again, or set model.source to another or to from_scratch."
        ) from error
    _check_complete(folder, report)
    return model  # type: ignore[no-any-return]


def _check_complete(folder: Path, report: Mapping[str, Any]) -> None:
    """Raise for missing weights, which stock loading replaces by random ones with a warning."""
    missing = sorted(str(name) for name in report.get("missing_keys", ()))
    wrong = sorted(str(name) for name in report.get("mismatched_keys", ()))
    if missing or wrong:
        raise SettingsError(
            f"{folder} is not a complete model: {len(missing)} weights are missing {missing[:3]}, "
            f"{len(wrong)} have another shape than config.json says {wrong[:3]}; fetch the folder again."
        )


def _check_latent_ids(folder: Path, config: Mapping[str, Any], ids: TokenIds) -> None:
    """Check that the latent ids which the released code wrote into config.json are those of the tokenizer."""
    for key, token in _RELEASED_IDS.items():
        expected, actual = config.get(key), getattr(ids, token)
        if expected is not None and expected != actual:
            raise SettingsError(
                f"{folder / 'config.json'} says {key} {expected}, but its tokenizer has {token} at {actual}. "
                "Put the tokenizer that the model was trained with into the folder."
            )


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Disable stock progress bars inside the block: a worker's output is a log."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


def _read_about(folder: Path) -> dict[str, Any]:
    """Read mirage.json of a folder; empty for a model that this project did not train."""
    file = folder / ABOUT_FILE
    return _read_object(file) if file.is_file() else {}


def _readout(folder: Path, backbone: Backbone, about: Mapping[str, Any]) -> nn.Module | None:
    """Return what reads latents off hidden states: of a model of this project, or of LVR's."""
    if _latent_input(about) == "code":
        return load_code_reader(folder)
    return load_readout(folder, backbone) or authors_readout(folder, backbone)


def _latent_input(about: Mapping[str, Any]) -> str | None:
    """What a model's latents are; None without latents, and for settings that only another version knows."""
    try:
        return LatentSettings.model_validate(about["latent"]).input if "latent" in about else None
    except ValidationError:
        return None  # refused, with the way out, where the settings are used (InferenceSettings.from_metadata)


def _read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder; SettingsError names the file."""
    try:
        content = read_json(file.read_bytes())
    except ValueError as error:
        raise SettingsError(f"{file} is not JSON ({_first_line(error)}); fetch the model folder again.") from error
    if not isinstance(content, dict):
        raise SettingsError(
            f"{file} holds a {type(content).__name__}, expected an object; fetch the model folder again."
        )
    return content


def _check_sizes(sizes: ArchitectureSettings) -> None:
    """Refuse sizes with which stock code would fail later, without naming the setting."""
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
    for rule, violated in wrong.items():
        if violated:
            raise SettingsError(f"model.architecture: {rule}.")


def _dtype(name: str) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
