"""Square grids of small numbers: their rows as JSON, and a name for all orientations of one.

Legend: n cells of a side. Cells are ``(row, column)``, counted from 0 at the upper left.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mirage_core.errors import InputError

Grid = NDArray[np.int8]
Cell = tuple[int, int]


def grid_from_rows(rows: Sequence[Sequence[int]], kinds: int) -> Grid:
    """Return JSON rows as a grid [n, n] of numbers from 0 to ``kinds`` - 1; InputError for another shape or number."""
    try:
        grid = np.array(rows, dtype=np.int8)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"the rows {rows!r:.80} are no grid: {error}; expected n lists of n whole numbers") from error
    if grid.ndim != 2 or not grid.size or grid.shape[0] != grid.shape[1]:
        raise InputError(f"got a grid of shape {grid.shape}, expected n lists of n whole numbers")
    if grid.min() < 0 or grid.max() >= kinds:
        raise InputError(f"a grid holds {grid.min()} to {grid.max()}, expected numbers from 0 to {kinds - 1}")
    return grid


@lru_cache(maxsize=32)
def _orders(side: int) -> NDArray[np.intp]:
    """Return the order of the cells [8, n * n] in each rotation and reflection, the first as it is."""
    cells = np.arange(side * side).reshape(side, side)
    turned = [np.rot90(cells, quarter) for quarter in range(4)]
    return np.array([each.ravel() for one in turned for each in (one, one.T)])


def canonical(grid: Grid) -> str:
    """Return a name that two grids share exactly if a rotation or reflection turns one into the other."""
    return f"{len(grid)}/" + min(each.tobytes() for each in grid.ravel()[_orders(len(grid))]).hex()
