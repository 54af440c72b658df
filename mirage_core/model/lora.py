"""Low-rank adapters on the text model (LoRA, arXiv 2106.09685) by peft: add, disable, list; trainable token rows.

Adapters belong to one training stage: it starts from its input model's weights, which stay frozen, and saves weights
with the adapters merged in (weights.py) beside the adapters themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from mirage_core.config import LoRASettings
from mirage_core.errors import SettingsError
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.backbone import Backbone

if TYPE_CHECKING:
    from peft import LoraConfig

ADAPTER = "default"
"""peft's name of the adapters; part of the names of their weights."""


class TrainableTokenRows(nn.Module):
    """A token table (embedding or output layer) with trainable ``rows`` [n, D] in place of its rows ``ids``."""

    ids: Tensor

    def __init__(self, base_layer: nn.Module, ids: Sequence[int], rows: nn.Parameter) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.rows = rows
        self.register_buffer("ids", torch.tensor(list(ids), device=rows.device), persistent=False)
        self.disable_adapters = False

    @property
    def weight(self) -> Tensor:
        """A copy of the table [V, D] with the trained rows."""
        table: Any = self.base_layer.weight
        return table.detach().index_copy(0, self.ids, self.rows.detach())  # type: ignore[no-any-return]


class TrainableEmbedding(TrainableTokenRows):
    """An input embedding with trainable token rows."""

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return embeddings [..., D] of ids [...]."""
        frozen: Tensor = self.base_layer(input_ids)
        if self.disable_adapters:
            return frozen
        match = input_ids[..., None] == self.ids
        trained = embedding(match.int().argmax(-1), self.rows)
        return torch.where(match.any(-1, keepdim=True), trained, frozen)


class TrainableOutput(TrainableTokenRows):
    """An output layer with trainable token rows."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits [..., V] of hidden states [..., D]."""
        frozen: Tensor = self.base_layer(hidden)
        if self.disable_adapters:
            return frozen
        return frozen.index_copy(-1, self.ids, linear(hidden, self.rows))


def add_trainable_rows(model: Any, ids: Sequence[int]) -> None:
    """Make rows ``ids`` of a stock model's embedding and output layer trainable; one shared set where they are tied."""
    table, output = model.get_input_embeddings(), model.get_output_embeddings()
    ids = list(ids)
    rows = nn.Parameter(table.weight.detach()[ids].clone())
    tied = output.weight is table.weight
    output_rows = rows if tied else nn.Parameter(output.weight.detach()[ids].clone())
    _replace(model, table, TrainableEmbedding(table, ids, rows))
    _replace(model, output, TrainableOutput(output, ids, output_rows))


def _replace(model: nn.Module, layer: nn.Module, replacement: nn.Module) -> None:
    name = next(name for name, module in model.named_modules() if module is layer)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, replacement)


def add_adapters(backbone: Backbone, settings: LoRASettings, ids: TokenIds, seed: int) -> None:
    """Add adapters to the text model, in the dtype of its weights, and freeze everything else.

    B is zero at first, so outputs do not change; the seed decides A. With ``train_latent_tokens`` the embedding and
    output rows of the latent tokens are trained too. SettingsError for a name in ``target_modules`` that no layer
    has, and for a model that already has adapters.
    """
    from peft import inject_adapter_in_model

    if has_adapters(backbone):
        raise SettingsError("The model already has adapters; load its folder again, whose weights have them merged.")
    config = _config(backbone, settings, latent_token_ids(ids) if settings.train_latent_tokens else [])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(replace(config, trainable_token_indices=None), backbone.model, ADAPTER)
    backbone.model.peft_config = {ADAPTER: config}
    if settings.train_latent_tokens:
        add_trainable_rows(backbone.model, latent_token_ids(ids))


def latent_token_ids(ids: TokenIds) -> list[int]:
    """Return the ids whose rows are trained beside the adapters."""
    latents = (ids.latent_start, ids.latent_pad, ids.latent_end, *ids.latent_queries)
    return sorted([*latents, *ids.visual_borders, *ids.visual_codes])


def has_adapters(backbone: nn.Module) -> bool:
    """Return whether a model has adapters."""
    return bool(_adapter_layers(backbone))


def adapter_config(backbone: Backbone) -> LoraConfig:
    """Return peft's configuration of the adapters."""
    config: LoraConfig = backbone.model.peft_config[ADAPTER]
    return config


@contextmanager
def adapters_disabled(backbone: nn.Module) -> Iterator[None]:
    """Disable the adapters inside the block, as GRPO's reference model; SettingsError for a model without adapters.

    Only for forward passes without gradient.
    """
    layers = _adapter_layers(backbone)
    if not layers:
        raise SettingsError(
            "The model has no adapters to disable, so it cannot be its own reference model. Set model.lora, or use a "
            "frozen copy."
        )
    before = [layer.disable_adapters for layer in layers]
    try:
        for layer in layers:
            _set_disabled(layer, True)
        yield
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            _set_disabled(layer, disabled)


def _set_disabled(layer: Any, disabled: bool) -> None:
    """Set the flag only: peft's own switch also changes requires_grad, which an engine may rely on during a step."""
    if isinstance(layer, TrainableTokenRows):
        layer.disable_adapters = disabled
    else:
        layer._disable_adapters = disabled


def _adapter_layers(backbone: nn.Module) -> list[Any]:
    """Return the layers with adapters, and those with trainable token rows."""
    kinds: tuple[type, ...] = (TrainableTokenRows,)
    if hasattr(getattr(backbone, "model", None), "peft_config"):
        from peft.tuners.lora import LoraLayer

        kinds = (TrainableTokenRows, LoraLayer)
    return [module for module in backbone.modules() if isinstance(module, kinds)]


def _config(backbone: Backbone, settings: LoRASettings, tokens: list[int]) -> LoraConfig:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides it by r, whatever it is
        lora_dropout=settings.dropout,
        target_modules=_target_pattern(backbone, settings.target_modules),
        trainable_token_indices=dict.fromkeys(_token_tables(backbone.model), tokens) if tokens else None,
    )


def _target_pattern(backbone: Backbone, targets: tuple[str, ...]) -> str:
    """Return a pattern of the adapted layers' names in the text model; the vision tower uses some names too."""
    names = {module: name for name, module in backbone.model.named_modules()}
    layers = re.escape(names[backbone.layers[0]].removesuffix(".0"))
    linear_layers = [name for module, name in names.items() if isinstance(module, nn.Linear)]
    prefix = rf"{layers}\.\d+\.(?:\w+\.)*"
    unknown = [t for t in targets if not any(re.fullmatch(prefix + re.escape(t), name) for name in linear_layers)]
    if unknown:
        known = {name.rpartition(".")[2] for name in linear_layers if re.match(rf"{layers}\.\d+\.", name)}
        raise SettingsError(
            f"model.lora.target_modules names {', '.join(unknown)}, which no layer of the text model is called; "
            f"expected some of {', '.join(sorted(known))}."
        )
    return rf"{prefix}(?:{'|'.join(re.escape(target) for target in targets)})"


def _token_tables(model: Any) -> list[str]:
    """Return peft's names of the embedding and the output layer; one name where the two are tied."""
    table, output = model.get_input_embeddings(), model.get_output_embeddings()
    tables = [table] if output.weight is table.weight else [table, output]
    return [name.rpartition(".")[2] for name, module in model.named_modules() if module in tables]
