"""Which tokens go into which pass, and what each pass takes from those before it.

A pass takes each row's tokens to the left of its columns, so that the first is plainly causal and only later ones
need a mask; where rows differ in length, everything but attention runs on the tokens alone.
Legend: B rows, T columns of the batch, C columns of a pass, n tokens of a pass, r rows fed a latent, m latents that a
pass reads again, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.latent.bottleneck import Bottleneck, Zone, sight
from mirage_core.latent.collate import SpanBlock
from mirage_core.model.backbone import Embedded, Rotary
from mirage_core.model.packing import Packing

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The tokens [n] of batch columns [begin, end), row by row.

    ``source``: where they stand in the batch, its rows laid end to end. ``packing``: where they stand in the pass;
    None where no row has padding. ``held`` [B, C]: which columns of the pass hold a token. ``last`` [B]: each row's
    last token. ``fed`` [r]: the tokens that are latents, each the hidden state of token ``leads`` [r] of the pass
    before, and ``numbers`` [r] which of the batch's latents they are, counted row by row. ``read`` [m]: the tokens that
    are latents read again, and ``recalled`` [m] which of the latents fed so far, counted in that order.
    ``zones`` [B, C]: of the tokens; None without a bottleneck. ``hides``: whether some token may not attend to some
    other before it.
    """

    begin: int
    end: int
    source: Tensor
    packing: Packing | None
    held: Tensor
    last: Tensor
    fed: Tensor
    leads: Tensor
    numbers: Tensor
    read: Tensor
    recalled: Tensor
    zones: Tensor | None
    hides: bool

    def inputs(self, embedded: Embedded, fed: Sequence[Tensor] = ()) -> Embedded:
        """What the pass is fed out of a batch: text, and ``fed``: its latents [r, D], behind those of passes before."""
        part = embedded.columns(self.begin, self.end)
        if self.packing is not None:
            part = replace(embedded, deep=None if part.deep is None else embedded.deep).packed(self.source)
        if not len(self.fed):
            return part
        latents, places, tokens = fed[-1], self.fed, part.tokens
        if len(self.read):
            places = torch.cat([places, self.read])
            latents = torch.cat([latents, torch.cat(list(fed)).index_select(0, self.recalled)])
        elif len(places) == len(self.source):
            return replace(part, tokens=latents.view_as(tokens))
        return replace(part, tokens=tokens.flatten(0, 1).index_copy(0, places, latents).view_as(tokens))

    def rotary(self, rotary: Rotary) -> Rotary:
        """The part of a batch's rotation that belongs to what the pass is fed."""
        if self.packing is None:
            return rotary[0][:, self.begin : self.end], rotary[1][:, self.begin : self.end]
        cos, sin = (part.flatten(0, 1).index_select(0, self.source)[None] for part in rotary)
        return cos, sin


def plan(
    mask: Tensor,
    blocks: Sequence[SpanBlock] = (),
    *,
    pack: bool = False,
    zones: Tensor | None = None,
    bottleneck: Bottleneck = "none",
) -> list[Pass]:
    """The passes over rows with tokens where ``mask`` [B, T] is True. A GPU is asked once, not in every pass.

    ``pack``: also where no row has padding, so that rows of any lengths run the same modules. ``zones`` [B, T]: of the
    tokens, where there is a ``bottleneck``.
    """
    held = mask.cpu().numpy()
    known = None if zones is None or bottleneck == "none" else zones.cpu().numpy()
    planner = _Planner(held, known, sight(bottleneck).numpy(), _numbers(held, blocks, known), mask.device, pack)
    edges = [0, *(column for block in blocks for column in range(block.start, block.start + block.width))]
    return [planner.next(begin, end) for begin, end in pairwise([*edges, held.shape[1]])]


def _numbers(held: Mask, blocks: Sequence[SpanBlock], zones: NDArray[np.uint8] | None) -> Ints:
    """Which latent each token [B, T] is or reads again, counted row by row; -1 for text, and for latents not rolled
    out."""
    numbers = np.full(held.shape, -1, dtype=np.int64)
    if not blocks:
        return numbers
    inside = np.zeros_like(held)
    for block in blocks:
        columns = slice(block.start, block.start + block.width)
        inside[:, columns] = held[:, columns]
    numbers[inside] = np.arange(inside.sum())
    if zones is not None and (zones == Zone.READ).any():
        numbers[zones == Zone.READ] = numbers[zones == Zone.LATENT]  # in a row both are in the order of its latents
    return numbers


class _Planner:
    """Plans one pass after the other; all it is given is [B, T], but ``sight``, which is [q, k] of zones."""

    def __init__(
        self,
        held: Mask,
        zones: NDArray[np.uint8] | None,
        sight: Mask,
        numbers: Ints,
        device: torch.device,
        pack: bool,
    ) -> None:
        self._held, self._zones, self._sight, self._numbers = held, zones, sight, numbers
        self._device, self._pack = device, pack
        self._last = np.empty(0, dtype=np.int64)
        self._fed_as = np.empty(numbers.max(initial=-1) + 1, dtype=np.int64)
        self._fed = 0
        self._seen = np.zeros(len(Zone), dtype=bool)

    def next(self, begin: int, end: int) -> Pass:
        """The pass over columns [begin, end)."""
        real = self._held[:, begin:end]
        rows, columns = real.nonzero()
        counts = real.sum(1)
        width = int(counts.max())
        places = rows * width + (real.cumsum(1) - 1)[rows, columns]
        fed = np.flatnonzero(columns == 0) if begin else np.empty(0, dtype=np.int64)
        leads = self._last[rows[fed]] if begin else fed
        self._last = counts.cumsum() - 1
        zones, hides = self._in_zones(rows, begin + columns, places, width)
        return Pass(
            begin=begin,
            end=end,
            source=self._moved(rows * self._held.shape[1] + begin + columns),
            packing=None if not self._pack and bool(real.all()) else Packing(len(real), width, self._moved(places)),
            held=self._moved(np.arange(width) < counts[:, None]),
            last=self._moved(self._last),
            fed=self._moved(fed),
            leads=self._moved(leads),
            **self._of_latents(rows, begin + columns, fed),
            zones=zones,
            hides=hides,
        )

    def _of_latents(self, rows: Ints, columns: Ints, fed: Ints) -> dict[str, Tensor]:
        """The numbers of the latents that the pass is fed, and those it reads again."""
        numbers = self._numbers[rows, columns]
        new = numbers[fed]
        self._fed_as[new] = np.arange(self._fed, self._fed + len(new))
        self._fed += len(new)
        again = numbers >= 0
        again[fed] = False
        return {
            "numbers": self._moved(new),
            "read": self._moved(np.flatnonzero(again)),
            "recalled": self._moved(self._fed_as[numbers[again]]),
        }

    def _in_zones(self, rows: Ints, columns: Ints, places: Ints, width: int) -> tuple[Tensor | None, bool]:
        """The zones of the pass [B, C], and whether any of them is kept from what stands before it."""
        if self._zones is None:
            return None, False
        mine = self._zones[rows, columns]
        asking = np.zeros_like(self._seen)
        asking[mine] = True
        self._seen |= asking
        table = np.zeros(len(self._held) * width, dtype=np.int64)
        table[places] = mine
        return self._moved(table.reshape(-1, width)), bool((~self._sight[asking][:, self._seen]).any())

    def _moved(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)
