"""What the text after a latent span may attend to: everything, the latents' keys and values, or their vectors alone.

Without a bottleneck a model may answer from the picture and leave its latents unread, which is what arXiv 2602.22766
found. Tokens of a row stand in zones, and a table says which zone sees which; within what it sees, a token sees what
stands before it. Rows without a span stand in zone BEFORE as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.latent.spans import Flat, Ints, Spans, offsets_of

Bottleneck = Literal["none", "latent_kv", "latent_only"]
"""none: text after a span sees all that stands before it. latent_kv: of what stands before the first latent it sees
nothing, but it sees the keys and values of the latents, which themselves saw the picture. latent_only: it sees the
latents' vectors, encoded a second time without anything that stands before them."""


class Zone(IntEnum):
    """Where a token stands in its row."""

    BEFORE = 0
    """Prompt, pictures, text up to the first latent_start, and that."""
    LATENT = 1
    """Latents, as they are rolled out: they see everything before them but READ."""
    AFTER = 2
    """Text after the first span, latent_end included, and the latent_start of later spans."""
    READ = 3
    """The same latents encoded again for the text after them, at the same positions (latent_only)."""


def sight(bottleneck: Bottleneck, *, hide_latents: bool = False) -> Tensor:
    """Whether a token of zone q may attend to one of zone k that is not behind it: boolean [q, k].

    ``hide_latents``: the text after a span sees no latent either, though every position stays as it is; what is left
    of an answer then owes nothing to them.
    """
    table = torch.ones(len(Zone), len(Zone), dtype=torch.bool)
    table[: Zone.AFTER, Zone.READ] = False
    if bottleneck != "none":
        table[Zone.AFTER :, Zone.BEFORE] = False
    if bottleneck == "latent_only":
        table[Zone.AFTER :, Zone.LATENT] = False
    if hide_latents:
        table[Zone.AFTER, Zone.LATENT] = table[Zone.AFTER, Zone.READ] = False
    return table


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
