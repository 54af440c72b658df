"""Rows with their zones, and, for a bottleneck that hides the latents themselves, with the latents once more.

Legend: B rows, S spans of all rows, n tokens of all rows, m tokens of all rows, those that are read again included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_core.errors import InputError
from mirage_core.latent.bottleneck import Bottleneck, Zone
from mirage_core.latent.rows import Flat, Ints, Spans, offsets_of


@dataclass(frozen=True, slots=True)
class Zoned:
    """Rows as they are laid out.

    ``flat``: their tokens [m]; ``spans``: the spans in them; ``zones`` [m]: values of Zone; ``source`` [m]: which of
    the tokens that were given each of them is; ``own`` [n]: where each of these stands now.
    """

    flat: Flat
    spans: Spans
    zones: NDArray[np.uint8]
    source: Ints
    own: Ints


def in_zones(flat: Flat, spans: Spans, bottleneck: Bottleneck, under: Sequence[bool] | None = None) -> Zoned:
    """Rows with their zones, and under latent_only every span a second time right behind itself.

    ``under`` [B]: the rows that are under the bottleneck (None: all); the others stand in zone BEFORE as a whole.
    InputError where ``under`` does not tell of every row.
    """
    rows = len(flat.lengths)
    if under is not None and len(under) != rows:
        raise InputError(f"under tells of {len(under)} rows, but {rows} are laid out; give one value a row.")
    chosen = np.ones(rows, dtype=bool) if under is None else np.array(under, dtype=bool)
    every = np.arange(len(flat.ids), dtype=np.int64)
    if bottleneck == "none" or not chosen[flat.rows[spans.first]].any():
        return Zoned(flat, spans, np.zeros(len(every), dtype=np.uint8), every, every)
    if bottleneck == "latent_kv":
        return Zoned(flat, spans, _zones(flat, spans, chosen), every, every)
    return _read_again(flat, spans, chosen)


def _read_again(flat: Flat, spans: Spans, under: NDArray[np.bool_]) -> Zoned:
    """The spans of the rows ``under`` the bottleneck once more, each behind itself."""
    again = under[flat.rows[spans.first]]
    twice = Spans(spans.first[again], spans.lengths[again], spans.index[again])
    behind = np.repeat(twice.first + twice.lengths, twice.lengths)
    source = np.insert(np.arange(len(flat.ids), dtype=np.int64), behind, twice.latents)
    read = np.insert(np.zeros(len(flat.ids), dtype=bool), behind, True)
    rows = flat.rows[source]
    lengths = np.bincount(rows, minlength=len(flat.lengths))
    wide = Flat(flat.ids[source], rows, offsets_of(rows, lengths), lengths)
    own = np.flatnonzero(~read)
    moved = Spans(own[spans.first], spans.lengths, spans.index)
    zones = _zones(wide, moved, under)
    zones[read] = Zone.READ
    return Zoned(wide, moved, zones, source, own)


def _zones(flat: Flat, spans: Spans, under: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Zones [m] of rows under a bottleneck: BEFORE their first latent, LATENT, and AFTER; BEFORE in the other rows."""
    begin = np.full(len(flat.lengths), len(flat.ids), dtype=np.int64)
    firsts = spans.first[spans.index == 0]
    begin[flat.rows[firsts]] = firsts
    zones = np.where(np.arange(len(flat.ids)) < begin[flat.rows], Zone.BEFORE, Zone.AFTER).astype(np.uint8)
    zones[spans.latents] = Zone.LATENT
    zones[~under[flat.rows]] = Zone.BEFORE
    return zones
