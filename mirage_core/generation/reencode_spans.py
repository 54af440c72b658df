"""The wider pass of a step in which rows close their span: its latents are encoded again, for the text after them.

In it rows that close hold their latents and latent_end in the last columns, the others their one token in the last.
The latents go to cache columns reserved for the s-th span of every row. Legend: n rows, W columns of the pass,
r rows that close, m latents read, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.generation.cache_mask import NOWHERE, ZonedColumns
from mirage_core.generation.latent_modes import Fed, Ints
from mirage_core.generation.span_buffer import OpenSpans
from mirage_core.latent.bottleneck import Zone
from mirage_core.model.backbone import Backbone, Rotary
from mirage_core.model.cache import FixedCache, ReservedColumns
from mirage_core.model.packing import Packing


@dataclass(frozen=True, slots=True)
class Reading:
    """``rows`` [m] and ``index`` [m] (within the span) of the latents read, ``sources`` [m] their columns in the pass.

    ``held`` [n, W]: the columns of the pass that hold a token; its tokens are numbered row by row.
    """

    rows: Ints
    index: Ints
    sources: Ints
    held: NDArray[np.bool_]

    @property
    def places(self) -> Ints:
        """The columns of the pass, laid end to end, that hold a token."""
        return np.flatnonzero(self.held)

    @property
    def last(self) -> Ints:
        """The number of the last token of each row [n]."""
        return np.asarray(self.held.sum(1).cumsum() - 1)

    @property
    def read(self) -> Ints:
        """The numbers of the latents read [m]."""
        return np.asarray((self.held.cumsum() - 1).reshape(self.held.shape)[self.rows, self.sources])


def reading(closing: Ints, lengths: Ints, rows: int) -> Reading:
    """Rows ``closing`` [r], of ``rows`` in all, read the latents of their spans of ``lengths`` [r]."""
    width = int(lengths.max()) + 1
    which = closing.repeat(lengths)
    index = np.arange(len(which)) - (lengths.cumsum() - lengths).repeat(lengths)
    sources = width - 1 - lengths.repeat(lengths) + index
    held = np.zeros((rows, width), dtype=bool)
    held[:, -1] = True
    held[which, sources] = True
    return Reading(which, index, sources, held)


class Reader:
    """Feeds the steps in which rows close their span, of at most ``longest`` latents."""

    def __init__(
        self, backbone: Backbone, cache: FixedCache, zones: ZonedColumns, spans: OpenSpans, longest: int
    ) -> None:
        self._backbone, self._cache, self._zones, self._spans = backbone, cache, zones, spans
        self._longest = longest
        self._reserved: list[int] = []

    def feed(self, fed: Fed, embedded: Tensor, positions: Tensor, rotary: Rotary) -> Tensor:
        """The last hidden states [n, D] of a step whose tokens are ``embedded`` [n, D], at ``positions`` [n].

        ``rotary``: cosines and sines [positions, head size]. The caller counts the last column, as in any step.
        """
        closing = np.flatnonzero(fed.closes)
        one = reading(closing, self._spans.counts[closing], len(positions))
        rows, sources, columns = (self._moved(part) for part in (one.rows, one.sources, self._columns(one)))
        at = positions[rows] - self._moved(self._spans.counts[one.rows] - one.index)
        zones = self._moved(self._spans.zones(fed))
        self._zones.write(rows, columns, Zone.READ, at)
        self._zones.append(zones, positions)
        in_pass = torch.full(one.held.shape, NOWHERE, device=zones.device)
        in_pass[:, -1], in_pass[rows, sources] = zones, int(Zone.READ)
        at_columns = positions[:, None].repeat(1, one.held.shape[1])
        at_columns[rows, sources] = at
        bias = self._backbone.attention_bias(self._zones.allowed(in_pass, at_columns)[:, None])
        inputs = self._joined(one, embedded, self._spans.gathered(one.rows, one.index))
        turned = self._joined(one, positions, at)
        hidden = self._backbone.hidden(
            inputs[None],
            (rotary[0][turned][None], rotary[1][turned][None]),
            bias,
            ReservedColumns(self._cache, rows, sources, columns),
            packing=Packing(len(one.held), one.held.shape[1], self._moved(one.places)),
        )
        return hidden[0, self._moved(one.last)]

    def _columns(self, one: Reading) -> Ints:
        """The cache columns [m] of the latents read; reserved now where no row has closed as many spans before."""
        spans = self._spans.closed[one.rows]
        while len(self._reserved) <= int(spans.max()):
            self._reserved.append(self._cache.reserve(self._longest))
            self._zones.reserve(self._longest)
        return np.asarray(self._reserved)[spans] + one.index

    def _joined(self, one: Reading, last: Tensor, read: Tensor) -> Tensor:
        """Of the tokens of the pass, in their order: what belongs to the ``last`` [n, ...] and to those ``read``."""
        joined = last.new_empty(len(last) + len(read), *last.shape[1:])
        joined[self._moved(one.last)], joined[self._moved(one.read)] = last, read
        return joined

    def _moved(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._backbone.device)
