"""Preallocated keys and values for passes of one token a row: with gradient, and for decoding.

A single-token pass rotates queries, keys and values in one batched product, by a matrix for each row's position (the
identity for values), straight into their column. Legend: L layers, B rows, C columns, H heads of keys, G groups of H
heads (queries, keys, values), d head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mirage_core.model.cache import FixedCache

Kinds = tuple[str, ...]
"""What each group of heads is, in the order of the projection: "q", "k" or "v"."""


def rotations(cos: Tensor, sin: Tensor) -> Tensor:
    """Return matrices [B, d, d] that rotate vectors from the right as rotary embeddings do; ``cos``, ``sin`` [B, d]."""
    size = cos.shape[-1]
    eye = torch.eye(size, dtype=cos.dtype, device=cos.device)
    turned = torch.cat([-eye[:, size // 2 :], eye[:, : size // 2]], dim=1)
    return eye * cos[:, None] + turned * sin[:, None]


def by_group(matrices: Tensor, kinds: Kinds) -> Tensor:
    """Return a matrix for each group [B * G, d, d]: ``matrices`` [B, d, d], and the identity for values."""
    eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device).expand_as(matrices)
    return torch.stack([eye if kind == "v" else matrices for kind in kinds], dim=1).flatten(0, 1)


def split_heads(heads: Tensor, kinds: Kinds) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries [B, heads, d], keys and values [B, H, d] of all groups [B, G, H, d]; views."""
    first, count = kinds.index("q"), kinds.count("q")
    queries = heads[:, first : first + count].flatten(1, 2)
    return queries, heads[:, kinds.index("k")], heads[:, kinds.index("v")]


class Rotated(torch.autograd.Function):
    """Rotates projections ``raw`` [B, G * H * d] by ``matrices`` [B * G, d, d], into ``target`` [B, G, H, d].

    Returns queries, keys and values as ``split_heads``.
    """

    @staticmethod
    def forward(ctx: Any, raw: Tensor, matrices: Tensor, target: Tensor, kinds: Kinds) -> tuple[Tensor, Tensor, Tensor]:
        flat = target.flatten(0, 1)
        torch.bmm(raw.view(flat.shape), matrices, out=flat)
        ctx.save_for_backward(matrices)
        ctx.kinds = kinds
        return split_heads(target.data, kinds)

    @staticmethod
    def backward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor) -> Any:  # type: ignore[override]
        (matrices,) = ctx.saved_tensors
        found = {"q": queries, "k": keys, "v": values}
        heads = torch.cat([found[kind] for kind in dict.fromkeys(ctx.kinds)], dim=1)
        turned = torch.bmm(heads.view(len(matrices), -1, heads.shape[-1]), matrices.transpose(1, 2))
        return turned.view(len(heads), -1), None, None, None


class _Columns(torch.autograd.Function):
    """What lies in the columns of a buffer, whose gradient is cut into that of the parts written there."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, *parts: Tensor) -> Tensor:
        ctx.widths = [part.shape[2] for part in parts]
        return columns.data

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        return None, *gradient.split(ctx.widths, dim=2)


@dataclass(slots=True)
class _Layer:
    """``buffer`` [C, B, G, H, d]; ``keys``, ``values``: what was written, with gradient, [B, H, columns, d] each."""

    buffer: Tensor
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    length: int = 0


class ColumnCache:
    """Differentiable keys and values of at most ``columns`` columns; older columns stay valid for the backward pass.

    Queries of single-token passes lie beside their keys, since the backward pass needs them too.
    """

    def __init__(self, columns: int, kinds: Kinds) -> None:
        self.kinds = kinds
        self.weights: dict[tuple[int, str], tuple[Tensor, Tensor | None]] = {}  # joined once for all passes
        self._columns, self._layers = columns, dict[int, _Layer]()

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Append [B, H, new, d] to a layer; returns all its keys and values."""
        if layer_idx not in self._layers:
            rows, heads, _, size = keys.shape
            buffer = keys.new_empty(self._columns, rows, len(self.kinds), heads, size, requires_grad=False)
            self._layers[layer_idx] = _Layer(buffer)
        layer = self._layers[layer_idx]
        with torch.no_grad():
            for kind, new in (("k", keys), ("v", values)):
                end = layer.length + new.shape[2]
                layer.buffer[layer.length : end, :, self.kinds.index(kind)].copy_(new.permute(2, 0, 1, 3))
        return self._extended(layer, keys, values)

    def rotate(self, raw: Tensor, matrices: Tensor, layer_idx: int) -> tuple[Tensor, Tensor, Tensor]:
        """Append the column of ``raw`` [B, G * H * d]; returns queries [B, heads, d], and all keys and values."""
        layer = self._layers[layer_idx]
        queries, keys, values = Rotated.apply(raw, matrices, layer.buffer[layer.length], self.kinds)
        return queries, *self._extended(layer, keys[:, :, None], values[:, :, None])

    def _extended(self, layer: _Layer, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        layer.keys.append(keys)
        layer.values.append(values)
        layer.length += keys.shape[2]
        written = layer.buffer[: layer.length].permute(2, 1, 3, 0, 4)  # [G, B, H, columns, d]
        parts: Sequence[tuple[str, list[Tensor]]] = (("k", layer.keys), ("v", layer.values))
        all_keys, all_values = (_Columns.apply(written[self.kinds.index(kind)], *own) for kind, own in parts)
        return all_keys, all_values


class SpilledCache(FixedCache):
    """A FixedCache, column after column, into which a pass of one token a row projects and rotates without copies.

    The projection of a token (its values, then keys and queries before rotation) starts in its column of the values
    and goes on behind it; the rotation writes its keys into their column, and its queries behind them. What lies behind
    the last column is nobody's, and the next token overwrites it.
    """

    def __init__(self, layers: int, kinds: Kinds, headroom: int = 64) -> None:
        super().__init__(headroom)
        self._num_layers, self._kinds = layers, kinds
        self._stacks: tuple[Tensor, Tensor] | None = None  # keys and values [L, B, columns, H, d]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Write the new columns after ``length``; call ``advance`` once all layers have them."""
        self._make_room(self.length + keys.shape[2], keys)
        return super().update(keys, values, layer_idx)

    def start(self, bias: Tensor | None) -> None:
        """Make room for a column of all layers, and write the bias of their projections [L, G * H * d] into it."""
        assert self._stacks is not None  # prompts were encoded
        self._make_room(self.length + 1, self._stacks[0])
        if bias is not None:
            self._raw().copy_(bias[:, None])

    def raw(self, layer: int) -> Tensor:
        """Where the projection of the column belongs [B, G * H * d]."""
        return self._raw()[layer]

    def rotate(self, layer: int, matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotate the column by ``matrices`` [B, d, d]; returns queries [B, heads, d], and all keys and values."""
        keys, values = self._buffers[layer]
        heads, size, rows = keys.shape[1], keys.shape[3], len(keys)
        source = self.raw(layer).view(rows, -1, size)[:, heads:]
        target = self._behind(0, (source.shape[1]) * size)[layer].view(source.shape)
        torch.bmm(source, matrices, out=target)
        end = self.length + 1
        return target[:, heads:], keys[:, :, :end], values[:, :, :end]

    def reserve(self, columns: int) -> int:
        """Append ``columns`` zero columns, for ``write`` to fill in some rows; returns the first of them."""
        assert self._stacks is not None
        self._make_room(self.length + columns, self._stacks[0])
        return super().reserve(columns)

    def trim(self, columns: int) -> None:
        """Drop so many columns in front."""
        super().trim(columns)
        self._restack()

    def select(self, rows: Tensor) -> None:
        """Keep ``rows`` only."""
        super().select(rows)
        self._restack()

    def join(self, other: FixedCache) -> tuple[int, int]:
        """Append the rows of ``other``; see FixedCache."""
        fronts = super().join(other)
        self._restack()
        return fronts

    def _raw(self) -> Tensor:
        assert self._stacks is not None
        _, _, _, heads, size = self._stacks[1].shape
        return self._behind(1, len(self._kinds) * heads * size)

    def _behind(self, which: int, width: int) -> Tensor:
        """A view of ``width`` numbers of every layer and row, from the column after the last on [L, B, width]."""
        assert self._stacks is not None
        stack = self._stacks[which]
        first = self.length * stack.stride(2)
        return stack.flatten(2)[:, :, first : first + width]

    def _make_room(self, end: int, like: Tensor) -> None:
        """Allocate all layers at once, with room for what is written behind the last column."""
        needed = end + len(self._kinds)
        if self._stacks is not None and self._stacks[0].shape[2] >= needed:
            return
        rows, heads, size = len(like), like.shape[1], like.shape[-1]
        if self._stacks is not None:
            _, rows, _, heads, size = self._stacks[0].shape
        columns = max(needed + self._headroom, 2 * self.length)
        self._renew(rows, heads, size, columns, like)

    def _restack(self) -> None:
        keys = self._buffers[0][0]
        self._renew(len(keys), keys.shape[1], keys.shape[3], keys.shape[2], keys)

    def _renew(self, rows: int, heads: int, size: int, columns: int, like: Tensor) -> None:
        """Allocate buffers, and copy into them what was written."""
        shape, before = (self._num_layers, rows, columns, heads, size), self._buffers
        self._stacks = like.new_empty(shape), like.new_empty(shape)
        keys, values = (stack.transpose(2, 3) for stack in self._stacks)
        self._buffers = {layer: (keys[layer], values[layer]) for layer in range(self._num_layers)}
        for layer, pair in before.items():
            for buffer, old in zip(self._buffers[layer], pair, strict=True):
                buffer[:, :, : self.length] = old[:, :, : self.length]
