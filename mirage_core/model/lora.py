"""Low-rank adapters on the text model (LoRA, arXiv 2106.09685) by peft: put in, left out for a while, listed.

They belong to one training stage: it starts from its input model's weights, which stay as they are, and what it saves
has them folded in (model/plain_weights.py), beside the adapters alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mirage_core.config import LoRASettings
from mirage_core.errors import SettingsError
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.backbone import Backbone

if TYPE_CHECKING:
    from peft import LoraConfig
from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import embedding, linear


class LearnedRows(nn.Module):
    """A layer of which the rows ``ids`` are replaced by ``rows`` [n, D], which learn."""

    ids: Tensor

    def __init__(self, base_layer: nn.Module, ids: Sequence[int], rows: nn.Parameter) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.rows = rows
        self.register_buffer("ids", torch.tensor(list(ids), device=rows.device), persistent=False)
        self.disable_adapters = False

    @property
    def weight(self) -> Tensor:
        """The whole table [V, D] as it stands now, a copy."""
        whole: Any = self.base_layer.weight
        return whole.detach().index_copy(0, self.ids, self.rows.detach())  # type: ignore[no-any-return]


class LearnedEmbedding(LearnedRows):
    """Embeddings of tokens."""

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embeddings [..., D] of ids [...]."""
        found: Tensor = self.base_layer(input_ids)
        if self.disable_adapters:
            return found
        same = input_ids[..., None] == self.ids
        learned = embedding(same.int().argmax(-1), self.rows)
        return torch.where(same.any(-1, keepdim=True), learned, found)


class LearnedOutput(LearnedRows):
    """Logits of tokens."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        found: Tensor = self.base_layer(hidden)
        if self.disable_adapters:
            return found
        return found.index_copy(-1, self.ids, linear(hidden, self.rows))


def learn_rows(model: Any, ids: Sequence[int]) -> None:
    """Let the rows ``ids`` of a stock model's embeddings and output learn: one set of rows where the two are tied."""
    table, output = model.get_input_embeddings(), model.get_output_embeddings()
    chosen = list(ids)
    rows = nn.Parameter(table.weight.detach()[chosen].clone())
    tied = output.weight is table.weight
    output_rows = rows if tied else nn.Parameter(output.weight.detach()[chosen].clone())
    _replace(model, table, LearnedEmbedding(table, chosen, rows))
    _replace(model, output, LearnedOutput(output, chosen, output_rows))


def _replace(model: nn.Module, layer: nn.Module, by: nn.Module) -> None:
    name = next(name for name, module in model.named_modules() if module is layer)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, by)


ADAPTER = "default"
"""What peft calls the adapters; part of the names of their weights."""


def add_adapters(backbone: Backbone, settings: LoRASettings, ids: TokenIds, seed: int) -> None:
    """Put adapters into the text model, in the dtype of its weights; from then on nothing else learns.

    They change nothing at first (B is zero); the seed decides A. With ``train_latent_tokens`` the embeddings and
    output rows of the latent tokens learn too. SettingsError for a name of ``target_modules`` that no layer has,
    and for a model that has adapters.
    """
    from peft import inject_adapter_in_model

    if has_adapters(backbone):
        raise SettingsError("The model has adapters already; load its folder again, whose weights hold them.")
    config = _config(backbone, settings, latent_tokens(ids) if settings.train_latent_tokens else [])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(replace(config, trainable_token_indices=None), backbone.model, ADAPTER)
    backbone.model.peft_config = {ADAPTER: config}
    if settings.train_latent_tokens:
        learn_rows(backbone.model, latent_tokens(ids))


def latent_tokens(ids: TokenIds) -> list[int]:
    """The ids whose rows learn beside the adapters."""
    return sorted([ids.latent_start, ids.latent_pad, ids.latent_end])


def has_adapters(backbone: nn.Module) -> bool:
    """Whether a model is being trained by adapters."""
    return bool(_adapted(backbone))


def adapter_config(backbone: Backbone) -> LoraConfig:
    """peft's configuration of the adapters."""
    config: LoraConfig = backbone.model.peft_config[ADAPTER]
    return config


@contextmanager
def without_adapters(backbone: nn.Module) -> Iterator[None]:
    """Inside the block the model computes as it did before it had adapters: GRPO's reference model.

    Only forward passes without gradient belong inside. SettingsError for a model without adapters.
    """
    layers = _adapted(backbone)
    if not layers:
        raise SettingsError(
            "The model has no adapters that could be left out, so it is no reference of its own. Set model.lora, or "
            "take a frozen copy."
        )
    before = [layer.disable_adapters for layer in layers]
    try:
        for layer in layers:
            _leave_out(layer, True)
        yield
    finally:
        for layer, left_out in zip(layers, before, strict=True):
            _leave_out(layer, left_out)


def _leave_out(layer: Any, left_out: bool) -> None:
    """peft's own switch also takes the gradient from the weights, which an engine may hold in the middle of a step."""
    if isinstance(layer, LearnedRows):
        layer.disable_adapters = left_out
    else:
        layer._disable_adapters = left_out


def _adapted(backbone: nn.Module) -> list[Any]:
    """The layers with adapters, and those with rows that learn."""
    kinds: tuple[type, ...] = (LearnedRows,)
    if hasattr(getattr(backbone, "model", None), "peft_config"):
        from peft.tuners.lora import LoraLayer

        kinds = (LearnedRows, LoraLayer)
    return [module for module in backbone.modules() if isinstance(module, kinds)]


def _config(backbone: Backbone, settings: LoRASettings, tokens: list[int]) -> LoraConfig:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides it by r, whatever it is
        lora_dropout=settings.dropout,
        target_modules=_pattern(backbone, settings.target_modules),
        trainable_token_indices=dict.fromkeys(_tables(backbone.model), tokens) if tokens else None,
    )


def _pattern(backbone: Backbone, targets: tuple[str, ...]) -> str:
    """A pattern of the adapted layers' names: those of the text model alone, the vision tower has layers so called."""
    names = {module: name for name, module in backbone.model.named_modules()}
    layers = re.escape(names[backbone.layers[0]].removesuffix(".0"))
    linear = [name for module, name in names.items() if isinstance(module, nn.Linear)]
    patterns = {target: rf"{layers}\.\d+\.(?:\w+\.)*{re.escape(target)}" for target in targets}
    unknown = [target for target, one in patterns.items() if not any(re.fullmatch(one, name) for name in linear)]
    if unknown:
        known = {name.rpartition(".")[2] for name in linear if re.match(rf"{layers}\.\d+\.", name)}
        raise SettingsError(
            f"model.lora.target_modules names {', '.join(unknown)}, which no layer of the text model is called; "
            f"expected some of {', '.join(sorted(known))}."
        )
    return rf"{layers}\.\d+\.(?:\w+\.)*(?:{'|'.join(re.escape(target) for target in targets)})"


def _tables(model: Any) -> list[str]:
    """The names of the embedding table and of the output layer, as peft finds them; one where the two are tied."""
    table, output = model.get_input_embeddings(), model.get_output_embeddings()
    tables = [table] if output.weight is table.weight else [table, output]
    return [name.rpartition(".")[2] for name, module in model.named_modules() if module in tables]
