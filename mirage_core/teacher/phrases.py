"""Wordings of the oracle: one of several by the problem's id, and cells as words."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from mirage_core.worlds.grid import Cell

Thoughts = tuple[str, str]
"""The thoughts before and after the image."""


class PhrasePicker:
    """Picks one of several wordings by the problem's id and the number of earlier picks."""

    def __init__(self, problem_id: str) -> None:
        self._seed = problem_id
        self._picks = 0

    def pick(self, *wordings: str) -> str:
        """Return one of the wordings."""
        self._picks += 1
        return wordings[zlib.crc32(f"{self._seed}/{self._picks}".encode()) % len(wordings)]


def cell_text(cell: Cell) -> str:
    """Return a cell as (row,column), counted from 0 at the upper left, as in the published chains."""
    return f"({cell[0]},{cell[1]})"


def list_cells(cells: Sequence[Cell]) -> str:
    """Return several cells as a phrase."""
    names = [cell_text(cell) for cell in cells]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
