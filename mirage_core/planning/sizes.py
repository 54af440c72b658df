"""The sizes of a model from its configuration alone: its modules are built on the meta device and counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import torch

from mirage_core.config import LoRASettings, ModelSettings, ReadoutKind
from mirage_core.errors import SettingsError
from mirage_core.latent.tokens import LATENT_TOKENS, token_ids
from mirage_core.model.backbone import Backbone
from mirage_core.model.backbones import adapter_class
from mirage_core.model.loading import FROM_SCRATCH, load_base_processor, scratch_config
from mirage_core.model.readout import readout_parameters
from mirage_core.planning.known_configs import KNOWN

_TABLES = ("embedding", "head")
"""The parts of a model with a row for each token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """A stack of ``layers`` equal layers, and the sizes of one."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int

    @property
    def head_size(self) -> int:
        """Elements of an attention head."""
        return self.hidden // self.heads

    @property
    def kv_hidden(self) -> int:
        """Elements of a token's keys, or of its values, in one layer."""
        return self.kv_heads * self.head_size


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """Parameters by part, and the sizes of the towers.

    ``parameters``: "layers", "embedding", "head" (absent where it is tied), "vision", "rest"; ``layer``: of one
    decoder layer; ``linear``: inputs and outputs of the text model's linear layers by name (one layer's); ``readout``:
    of "rest", what reads latents off hidden states.
    """

    text: Tower
    vision: Tower
    vocabulary: int
    patch: int
    merged_patches: int
    parameters: Mapping[str, int]
    layer: int
    linear: Mapping[str, tuple[int, int]]
    readout: int = 0

    @property
    def tied(self) -> bool:
        """Whether the embedding table is the output layer too."""
        return "head" not in self.parameters

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(self.parameters.values())

    @property
    def language(self) -> int:
        """Parameters outside the vision tower."""
        return self.total - self.parameters["vision"]

    @property
    def table(self) -> int:
        """Elements of the embedding table."""
        return self.vocabulary * self.text.hidden

    def with_tokens(self, count: int) -> ModelSizes:
        """Return the sizes with ``count`` more tokens; a padded vocabulary would have had rows for them."""
        tables = {name: self.parameters[name] + count * self.text.hidden for name in _TABLES if name in self.parameters}
        return replace(self, vocabulary=self.vocabulary + count, parameters={**self.parameters, **tables})

    def with_readout(self, kind: ReadoutKind | None) -> ModelSizes:
        """Return the sizes with the weights of what reads latents off hidden states (model/readout.py)."""
        if kind is None:
            return self
        hidden, inner = self.text.hidden, kind.width or self.text.intermediate
        count = readout_parameters(hidden, inner, kind.head, stops=kind.stops)
        return replace(self, readout=count, parameters={**self.parameters, "rest": self.parameters["rest"] + count})

    def trained(self, settings: ModelSettings, new_tokens: int = 0) -> int:
        """Return the trained parameters: all, all but the vision tower's, or the adapters'.

        ``new_tokens``: beside the latent tokens, already in ``vocabulary``; adapters train the rows of both.
        """
        vision = self.parameters["vision"] if settings.train_vision else 0
        if settings.lora is not None:
            return vision + self.adapters(settings.lora, new_tokens) + self.readout
        return vision + self.language

    def adapters(self, settings: LoRASettings, new_tokens: int = 0) -> int:
        """Return the parameters of the adapters, and of the new tokens' embeddings if they are trained."""
        matrices = [sum(self.linear[name]) for name in settings.target_modules if name in self.linear]
        tokens = len(LATENT_TOKENS) + new_tokens if settings.train_latent_tokens else 0
        rows = tokens * self.text.hidden * (1 if self.tied else 2)
        return settings.rank * self.text.layers * sum(matrices) + rows


def model_sizes(settings: ModelSettings) -> ModelSizes:
    """Return the sizes of a recipe's model; config.json is downloaded for a hub id that is not built in.

    SettingsError if there is no configuration, or its type is unknown.
    """
    return sizes_of(model_config(settings))


def model_config(settings: ModelSettings) -> Any:
    """Return the stock configuration of a recipe's model."""
    if settings.source == FROM_SCRATCH:
        ids = token_ids(load_base_processor(settings).tokenizer)
        return scratch_config(settings.architecture, ids, settings.dtype)
    raw = _raw_config(settings.source, settings.revision)
    return adapter_class(raw.get("model_type")).stock_class.config_class(**raw)  # type: ignore[misc]


def sizes_of(config: Any) -> ModelSizes:
    """Return the sizes of a stock configuration, from ``model_config`` or a loaded model."""
    with torch.device("meta"):
        model = adapter_class(config.model_type).stock_class(config)
    text, vision = config.text_config, config.vision_config
    backbone = Backbone(model)
    layer = backbone.layers[0]
    linear = {
        name.rpartition(".")[2]: (module.in_features, module.out_features)
        for name, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    return ModelSizes(
        text=Tower(
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
        ),
        vision=Tower(
            hidden=vision.hidden_size,
            intermediate=vision.intermediate_size,
            layers=vision.depth,
            heads=vision.num_heads,
            kv_heads=vision.num_heads,
        ),
        vocabulary=text.vocab_size,
        patch=3 * vision.temporal_patch_size * vision.patch_size**2,
        merged_patches=vision.spatial_merge_size**2,
        parameters=_parameters(backbone),
        layer=sum(parameter.numel() for parameter in layer.parameters()),
        linear=linear,
    )


def _parameters(backbone: Backbone) -> dict[str, int]:
    """Return ``ModelSizes.parameters``: parameters by part; a tied table counts once, as the embedding."""
    model = backbone.model
    parts = {
        "head": [model.get_output_embeddings()],
        "embedding": [model.get_input_embeddings()],
        "layers": backbone.layers,
        "vision": [backbone.vision],
    }
    part = {weight: name for name, modules in parts.items() for module in modules for weight in module.parameters()}
    counts: Counter[str] = Counter()
    for weight in model.parameters():  # each once, tied or not
        counts[part.get(weight, "rest")] += weight.numel()
    return dict(counts)


def _raw_config(source: str, revision: str | None) -> dict[str, Any]:
    """Return config.json of a folder, of a known hub id, or from the hub."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return _read(folder / "config.json")
    if source in KNOWN:
        return dict(KNOWN[source])
    try:
        return _read(Path(huggingface_hub.hf_hub_download(source, "config.json", revision=revision)))
    except Exception as error:
        # The hub's client raises errors of many kinds (its own, of HTTP, of the network, of the disk).
        raise SettingsError(
            f"{source} is no folder here, and its config.json could not be fetched: {error}. Known without a hub: "
            f"{', '.join(KNOWN)}"
        ) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read as JSON ({error}); set model.source to a model folder") from error
    if not isinstance(config, dict):
        raise SettingsError(f"{file} holds a {type(config).__name__}, expected an object")
    return config
