"""Patterns of coloured tiles, and what quarter turns make of them.

A pattern is a grid [n, n] of numbers in ``COLOURS``. Turns are letters: R clockwise, L counterclockwise.
"""

from __future__ import annotations

import numpy as np

from mirage_core.errors import InputError
from mirage_core.worlds.grid import Cell, Grid

COLOURS = ("red", "green", "blue", "yellow")
TURNS = {"R": "clockwise", "L": "counterclockwise"}


def turned(pattern: Grid, turn: str) -> Grid:
    """Return the pattern [n, n] after one quarter turn; InputError for another letter than R or L."""
    return np.ascontiguousarray(np.rot90(pattern, -_sign(turn)))


def patterns_after(pattern: Grid, turns: str) -> list[Grid]:
    """Return the pattern after each of the turns, one for each letter."""
    patterns = [pattern]
    for turn in turns:
        patterns.append(turned(patterns[-1], turn))
    return patterns[1:]


def cells_of_tile(end: Cell, turns: str, side: int) -> list[Cell]:
    """Return where the tile that ends in the cell ``end`` stands: before the turns, and after each of them.

    ``side``: cells of a side of the pattern. One cell more than there are turns.
    """
    cells = [end]
    for turn in reversed(turns):
        row, column = cells[-1]
        cells.append((side - 1 - column, row) if _sign(turn) > 0 else (column, side - 1 - row))
    return cells[::-1]


def random_pattern(rng: np.random.Generator, side: int) -> Grid:
    """Draw a pattern [side, side]: every tile has each colour with the same probability."""
    return rng.integers(0, len(COLOURS), size=(side, side), dtype=np.int8)


def random_turns(rng: np.random.Generator, number: int) -> str:
    """Draw quarter turns that do not cancel: together they are a quarter, half or three-quarter turn."""
    if number < 1:
        raise InputError(f"got {number} quarter turns, expected 1 or more")
    while True:
        turns = "".join("RL"[int(letter)] for letter in rng.integers(0, 2, size=number))
        if sum(map(_sign, turns)) % 4:
            return turns


def _sign(turn: str) -> int:
    if turn not in TURNS:
        raise InputError(f"got the turn {turn!r}, expected one of {', '.join(TURNS)}")
    return 1 if turn == "R" else -1
