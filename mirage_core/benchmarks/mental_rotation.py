"""Mental rotation: a pattern of coloured tiles, quarter turns in words, and the colour that a cell then has.

Made here, in the spirit of MentisOculi (arXiv 2602.02465). A level is the number of cells of a side; it has as many
turns, or one less. Each of the four colours is right as often, whatever the words say.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mirage_core.benchmarks.multiple_choice import with_options
from mirage_core.benchmarks.puzzles import FORM, Facts, Puzzle, answer_letter
from mirage_core.worlds.grid import Cell, Grid, canonical, grid_from_rows
from mirage_core.worlds.maze import picture_bytes
from mirage_core.worlds.rotation import COLOURS, TURNS, cells_of_tile, draw_pattern, random_pattern, random_turns

NAME = "mental-rotation"
_QUESTION = (
    "<image>\nThe image shows a pattern of coloured tiles on a grid of {side} x {side} cells. The whole pattern is "
    "turned about its centre by {turns}. Rows and columns are counted from 0 at the upper left. Which colour has the "
    "tile that is then in row {row}, column {column}?"
)
_SHORT = "<image>\nTurns: {turns}\nCell: {row} {column}\nColour"


def draw(rng: np.random.Generator, level: int, right: int, allowed: Callable[[str], bool]) -> Facts | None:
    """Draw a pattern [level, level], turns, and a cell whose tile then has the colour number ``right``."""
    turns = random_turns(rng, level - 1 + int(rng.integers(2)))
    cell = _asked(rng, level)
    pattern = random_pattern(rng, level)
    pattern[cells_of_tile(cell, turns, level)[0]] = right
    form = canonical(pattern)
    if not allowed(form):
        return None
    return {
        "pattern": pattern.tolist(),
        "turns": turns,
        "cell": list(cell),
        "options": list(COLOURS),
        "short": _SHORT.format(turns=" ".join(turns), row=cell[0], column=cell[1]),
        FORM: form,
        "answer": answer_letter(right),
    }


def _asked(rng: np.random.Generator, level: int) -> Cell:
    """Draw a cell other than the centre, which no turn moves."""
    while True:
        row, column = (int(place) for place in rng.integers(0, level, size=2))
        if not row == column == (level - 1) / 2:
            return row, column


def pattern_of(facts: Facts) -> Grid:
    """Return the pattern [n, n] before the turns."""
    return grid_from_rows(facts["pattern"], len(COLOURS))


def asked_cells(facts: Facts) -> list[Cell]:
    """Return where the tile that is asked for stands: before the turns, and after each of them."""
    row, column = facts["cell"]
    return cells_of_tile((row, column), facts["turns"], len(facts["pattern"]))


def question(facts: Facts) -> str:
    """Return the question with its options."""
    row, column = facts["cell"]
    side, words = len(facts["pattern"]), [TURNS[turn] for turn in facts["turns"]]
    if len(words) == 1:
        turns = f"one quarter turn {words[0]}"
    else:
        turns = f"{len(words)} quarter turns, one after the other: {', '.join(words)}"
    return with_options(_QUESTION.format(side=side, turns=turns, row=row, column=column), facts["options"])


def show(facts: Facts, cell_px: int) -> bytes:
    """Draw the pattern before the turns."""
    return picture_bytes(draw_pattern(pattern_of(facts), cell_px))


PUZZLE = Puzzle(NAME, draw, question, show)
BENCHMARK = PUZZLE.benchmark()
