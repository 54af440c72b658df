"""Wordings that vary from problem to problem and never from run to run."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from mirage_core.worlds.maze import Cell

DIRECTIONS = {"U": "up", "D": "down", "L": "left", "R": "right"}


class Phrases:
    """Chooses one of several wordings, by the problem and by how many were chosen before."""

    def __init__(self, problem_id: str) -> None:
        self._seed = problem_id
        self._chosen = 0

    def pick(self, *wordings: str) -> str:
        """One of the wordings."""
        self._chosen += 1
        return wordings[zlib.crc32(f"{self._seed}/{self._chosen}".encode()) % len(wordings)]


def at(cell: Cell) -> str:
    """A cell as (row,column), counted from 0 at the upper left, as the published chains write it."""
    return f"({cell[0]},{cell[1]})"


def listed(cells: Sequence[Cell]) -> str:
    """Several cells in a sentence."""
    names = [at(cell) for cell in cells]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
