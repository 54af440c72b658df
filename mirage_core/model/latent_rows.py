"""A few rows of the embedding table and of the output layer that learn while the others stay as they are.

peft has such a layer (``trainable_token_indices``), but it copies the whole table in every pass, and under ZeRO-3 it
reads a table that is not there; the rows here are saved in its format. Legend: n rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
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
