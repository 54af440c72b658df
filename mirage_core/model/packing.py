"""Packed tokens of padded rows, and the input embeddings of a batch with what images add to the first layers.

Attention needs padded columns; everything else runs on the packed tokens. Legend: B rows, T columns, n tokens,
D hidden, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Packing:
    """``index`` [n]: the columns that hold tokens, among ``rows`` times ``columns`` laid end to end."""

    rows: int
    columns: int
    index: Tensor

    def pad(self, tokens: Tensor) -> Tensor:
        """Return tokens [1, n, ...] in their columns [B, T, ...], zero elsewhere."""
        empty = tokens.new_zeros(self.rows * self.columns, *tokens.shape[2:])
        return empty.index_copy(0, self.index, tokens[0]).unflatten(0, (self.rows, self.columns))

    def unpad(self, columns: Tensor) -> Tensor:
        """Return the tokens [1, n, ...] of columns [B, T, ...]."""
        return columns.flatten(0, 1).index_select(0, self.index)[None]


@dataclass(frozen=True, slots=True)
class InputEmbeddings:
    """Input embeddings ``tokens`` [B, T, D], and ``deep`` [L, B, T, D], added to the outputs of the first layers.

    ``deep`` is zero but at images, which end before column ``images_end``; None where nothing is added.
    """

    tokens: Tensor
    deep: Tensor | None = None
    images_end: int = 0

    @property
    def shape(self) -> torch.Size:
        """[B, T, D]."""
        return self.tokens.shape

    def columns(self, begin: int, end: int) -> InputEmbeddings:
        """Return columns [begin, end)."""
        deep = None if self.deep is None or begin >= self.images_end else self.deep[:, :, begin:end]
        return InputEmbeddings(self.tokens[:, begin:end], deep, max(0, self.images_end - begin))

    def packed(self, index: Tensor) -> InputEmbeddings:
        """Return the packed tokens [1, n, D] at ``index`` [n] of all rows laid end to end."""
        deep = None if self.deep is None else self.deep.flatten(1, 2).index_select(1, index)[:, None]
        return InputEmbeddings(self.tokens.flatten(0, 1).index_select(0, index)[None], deep, self.images_end)

    def with_latents(self, rows: Tensor, columns: Tensor, latents: Tensor) -> InputEmbeddings:
        """Return these embeddings with ``latents`` [..., D] at ``rows``, ``columns`` [...]."""
        return replace(self, tokens=self.tokens.index_put((rows, columns), latents))
