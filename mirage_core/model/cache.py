"""Key-value caches, leaner than the stock ones and accepted by stock attention layers.

Legend: B rows, T columns so far. Keys and values are [B, heads, T, head size], one pair a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Cache(Protocol):
    """What a stock attention layer needs of a cache: extend one layer, get all its keys and values."""

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Append [B, heads, new, head size] to a layer; returns all keys and values of the layer."""
        ...


class GrowingCache:
    """Differentiable: stores the parts of every pass and concatenates them when read."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, ...]] = {}

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Append without changing older parts, which stay valid for the backward pass."""
        parts = self.layers[layer_idx] = (*self.layers.get(layer_idx, ()), keys, values)
        if len(parts) == 2:
            return keys, values
        return torch.cat(parts[::2], dim=2), torch.cat(parts[1::2], dim=2)

    def repeated(self, rows: Tensor) -> GrowingCache:
        """Return a cache of these rows [B] of this one; gradients of a row taken twice add up."""
        cache = GrowingCache()
        cache.layers = {
            layer: tuple(part.index_select(0, rows) for part in parts) for layer, parts in self.layers.items()
        }
        return cache


class FixedCache:
    """For decoding: written in place into buffers that double when full; rows can be repeated and dropped."""

    def __init__(self, headroom: int = 64) -> None:
        self.length = 0
        self._headroom = headroom
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Write the new columns after ``length``; call ``advance`` once all layers have them."""
        end = self.length + keys.shape[2]
        pair = self._buffers.get(layer_idx)
        if pair is None or pair[0].shape[2] < end:
            pair = self._buffers[layer_idx] = (self._grown(pair, keys, end, 0), self._grown(pair, values, end, 1))
        for buffer, new in zip(pair, (keys, values), strict=True):
            buffer[:, :, self.length : end] = new
        return pair[0][:, :, :end], pair[1][:, :, :end]

    def advance(self, columns: int) -> None:
        """Count ``columns`` that every layer has written."""
        self.length += columns

    def reserve(self, columns: int) -> int:
        """Append ``columns`` zero columns, for ``write`` to fill in some rows; returns the first of them."""
        first = self.length
        for layer, pair in self._buffers.items():
            if pair[0].shape[2] < first + columns:
                pair = self._buffers[layer] = (
                    self._grown(pair, pair[0], first + columns, 0),
                    self._grown(pair, pair[1], first + columns, 1),
                )
            for buffer in pair:  # zero times uninitialized memory may be NaN
                buffer[:, :, first : first + columns] = 0
        self.length += columns
        return first

    def write(self, layer_idx: int, rows: Tensor, columns: Tensor, keys: Tensor, values: Tensor) -> None:
        """Overwrite keys and values at ``rows``, ``columns`` [m] of a layer with [m, heads, head size]."""
        for buffer, new in zip(self._buffers[layer_idx], (keys, values), strict=True):
            buffer[rows, :, columns] = new

    def read(self, row: int, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Return copies of keys and values [layers, heads, k, head size] of some columns [k] of a row."""
        pairs = [self._buffers[layer] for layer in sorted(self._buffers)]
        keys, values = (torch.stack([pair[which][row][:, columns] for pair in pairs]) for which in (0, 1))
        return keys, values

    def repeat(self, times: int) -> None:
        """Repeat every row ``times`` times (samples of a prompt that was encoded once)."""
        rows = self._buffers[0][0].shape[0]
        device = self._buffers[0][0].device
        self.select(torch.arange(rows, device=device).repeat_interleave(times))

    def join(self, other: FixedCache) -> tuple[int, int]:
        """Append the rows of ``other``, so that both go on in one column: the shorter gets zero columns in front.

        Returns how many columns this one, and the other, got.
        """
        length = max(self.length, other.length)
        fronts = (length - self.length, length - other.length)
        for layer, own in self._buffers.items():
            pairs = zip(own, other._buffers[layer], strict=True)
            self._buffers[layer] = tuple(self._joined(own, its, other.length, fronts) for own, its in pairs)  # type: ignore[assignment]
        self.length = length
        return fronts

    def trim(self, columns: int) -> None:
        """Drop so many columns in front."""
        for layer, pair in self._buffers.items():
            self._buffers[layer] = (pair[0][:, :, columns:], pair[1][:, :, columns:])
        self.length -= columns

    def select(self, rows: Tensor) -> None:
        """Keep ``rows`` only."""
        for layer, pair in self._buffers.items():
            self._buffers[layer] = (self._selected(pair[0], rows), self._selected(pair[1], rows))

    def _selected(self, buffer: Tensor, rows: Tensor) -> Tensor:
        new = buffer.new_empty(len(rows), *buffer.shape[1:])
        new[:, :, : self.length] = buffer[rows, :, : self.length]
        return new

    def _joined(self, own: Tensor, its: Tensor, its_length: int, fronts: tuple[int, int]) -> Tensor:
        """Rows of both buffers, right-aligned at their lengths."""
        rows, length = len(own), self.length + fronts[0]
        new = own.new_zeros(rows + len(its), own.shape[1], length + self._headroom, own.shape[3])
        new[:rows, :, fronts[0] : length] = own[:, :, : self.length]
        new[rows:, :, fronts[1] : length] = its[:, :, :its_length]
        return new

    def _grown(self, pair: tuple[Tensor, Tensor] | None, new: Tensor, end: int, which: int) -> Tensor:
        capacity = max(end + self._headroom, 2 * self.length if pair is not None else 0)
        buffer = new.new_empty(*new.shape[:2], capacity, new.shape[3])
        if pair is not None:
            buffer[:, :, : self.length] = pair[which][:, :, : self.length]
        return buffer


@dataclass(frozen=True, slots=True)
class ReservedColumns:
    """A view of ``cache`` for a pass whose last column is appended and whose other columns fill reserved ones.

    In row ``rows`` [m], column ``sources`` [m] of the pass is written to ``columns`` [m]; the rest is padding.
    """

    cache: FixedCache
    rows: Tensor
    sources: Tensor
    columns: Tensor

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Write one layer; returns all its keys and values."""
        reserved = (part[self.rows, :, self.sources] for part in (keys, values))
        self.cache.write(layer_idx, self.rows, self.columns, *reserved)
        return self.cache.update(keys[:, :, -1:], values[:, :, -1:], layer_idx)
