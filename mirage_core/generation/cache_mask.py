"""Zones of the cached columns of every row, and what its next columns may see of them.

Legend: n rows, C columns so far, W new columns, m columns written into places reserved for them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from mirage_core.latent.bottleneck import Zone

NOWHERE = len(Zone)
"""Padding, pictures that are hidden, columns not written yet: seen by nobody."""

_BEFORE_ALL = -1


class ZonedColumns:
    """A column is seen where the table shows its zone, from its position on; columns may lie in any order."""

    def __init__(self, held: Tensor, table: Tensor) -> None:
        """Of prompts, columns ``held`` [n, C] may be seen; ``table`` [q, k] as ``latent.bottleneck.sight`` makes it."""
        self._table = pad(table.to(held.device), (0, 1, 0, 1), value=False)
        self._zones = torch.where(held, int(Zone.BEFORE), NOWHERE)
        self._positions = torch.full_like(self._zones, _BEFORE_ALL)

    def append(self, zones: Tensor, positions: Tensor) -> None:
        """One more column: the zone and the position of every row [n]."""
        self._zones = torch.cat([self._zones, zones[:, None]], dim=1)
        self._positions = torch.cat([self._positions, positions[:, None]], dim=1)

    def reserve(self, columns: int) -> None:
        """So many more columns, seen by nobody until they are written."""
        self._zones = pad(self._zones, (0, columns), value=NOWHERE)
        self._positions = pad(self._positions, (0, columns), value=_BEFORE_ALL)

    def write(self, rows: Tensor, columns: Tensor, zone: Zone, positions: Tensor) -> None:
        """Reserved columns [m] of these rows [m] now hold tokens of ``zone`` at ``positions`` [m]."""
        self._zones[rows, columns] = int(zone)
        self._positions[rows, columns] = positions

    def allowed(self, zones: Tensor, positions: Tensor) -> Tensor:
        """What new columns of these zones and positions [n, W] may see: boolean [n, W, C]."""
        columns = self._zones[:, None].expand(-1, zones.shape[1], -1)
        shown = self._table[zones].gather(2, columns)
        return shown & (self._positions[:, None] <= positions[..., None])

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self._zones, self._positions = self._zones[rows], self._positions[rows]
