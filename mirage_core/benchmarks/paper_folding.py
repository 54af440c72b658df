"""Paper folding: a sheet that was folded as the words say and then punched, and the holes that it has when unfolded.

Made here, in the spirit of MentisOculi (arXiv 2602.02465). A level is the number of cells of a side; the sheet is
folded that often less two. Holes have shapes, and one shape is asked for. Folds and options are drawn before the right
option and the holes are chosen, so that the words tell nothing about it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from mirage_core.benchmarks.multiple_choice import LETTERS, with_options
from mirage_core.benchmarks.puzzles import FORM, OPTIONS, Facts, Puzzle, answer_letter
from mirage_core.worlds.folding import (
    SHAPES,
    SIDES,
    Fold,
    draw_sheet,
    layers,
    random_folds,
    random_holes,
    regions,
)
from mirage_core.worlds.grid import Grid, canonical, grid_from_rows
from mirage_core.worlds.maze import picture_bytes

NAME = "paper-folding"
_QUESTION = (
    "<image>\nA square sheet of paper with {side} x {side} cells was folded {folds}. Then holes were punched through "
    "all of its layers. The image shows the folded sheet with the holes. How many {shape} holes has the sheet when it "
    "is unfolded?"
)
_SHORT = "<image>\nFolds: {folds}\nHoles: {shape}\n{options}"
_DRAWS, _SHEETS = 160, 16  # sheets drawn for one choice of folds, and those to choose from
_SMALLEST = 4  # cells of a folded sheet


def draw(rng: np.random.Generator, level: int, right: int, allowed: Callable[[str], bool]) -> Facts | None:
    """Draw folds, four numbers in ascending order, and holes that make the one at ``right`` the answer."""
    folds = random_folds(rng, level, level - 2, _SMALLEST)
    shape = int(rng.integers(len(SHAPES)))
    by_count: dict[int, list[tuple[Grid, str]]] = defaultdict(list)
    for holes, form, count in islice(_sheets(rng, level, folds, shape, allowed), _SHEETS):
        by_count[count].append((holes, form))
    if len(by_count) < OPTIONS:
        return None
    numbers = sorted(int(number) for number in rng.choice(sorted(by_count), size=OPTIONS, replace=False))
    drawn = by_count[numbers[right]]
    holes, form = drawn[int(rng.integers(len(drawn)))]
    return {
        "holes": holes.tolist(),
        "folds": [[fold.side, fold.width] for fold in folds],
        "shape": SHAPES[shape],
        "options": [str(number) for number in numbers],
        "short": _short(folds, SHAPES[shape], numbers),
        FORM: form,
        "answer": answer_letter(right),
    }


def _sheets(
    rng: np.random.Generator, level: int, folds: Sequence[Fold], shape: int, allowed: Callable[[str], bool]
) -> Iterator[tuple[Grid, str, int]]:
    """Yield sheets of an allowed form with a hole of the shape, of which every unfolding shows more holes."""
    drawn = random_holes(rng, level, folds, _DRAWS)
    lies = layers(level, folds)
    counts = ((drawn == shape + 1) * lies.depth).sum(axis=(1, 2))
    shown = np.logical_and.reduce([((drawn > 0) & bared).any(axis=(1, 2)) for bared in lies.bared])
    usable = np.flatnonzero(shown & (counts > 0))
    if len(set(counts[usable])) < OPTIONS:
        return
    for number in usable:
        form = canonical(drawn[number].ravel()[lies.under])
        if allowed(form):
            yield drawn[number], form, int(counts[number])


def sheet_of(facts: Facts) -> tuple[Grid, list[Fold]]:
    """Return the holes [n, n] of the folded sheet and the folds."""
    holes = grid_from_rows(facts["holes"], len(SHAPES) + 1)
    return holes, [Fold(side, width) for side, width in facts["folds"]]


def question(facts: Facts) -> str:
    """Return the question with its options."""
    _, folds = sheet_of(facts)
    times = "once" if len(folds) == 1 else f"{len(folds)} times"
    words = ", then ".join(fold_words(fold) for fold in folds)
    text = _QUESTION.format(side=len(facts["holes"]), folds=f"{times}: {words}", shape=facts["shape"])
    return with_options(text, facts["options"])


def fold_words(fold: Fold) -> str:
    """Return a fold in words: "the left 2 columns to the right"."""
    sideways = fold.side in ("left", "right")
    lines = ("column" if sideways else "row") + ("s" if fold.width > 1 else "")
    part = f"{fold.side} {lines}" if fold.width == 1 else f"{fold.side} {fold.width} {lines}"
    return f"the {part} {'to the ' + SIDES[fold.side] if sideways else 'down' if fold.side == 'top' else 'up'}"


def show(facts: Facts, cell_px: int) -> bytes:
    """Draw the folded sheet."""
    holes, folds = sheet_of(facts)
    return picture_bytes(draw_sheet(holes, regions(len(holes), folds)[-1], cell_px))


def _short(folds: Sequence[Fold], shape: str, numbers: Sequence[int]) -> str:
    marks = " ".join(f"{fold.side[0].upper()}{fold.width}" for fold in folds)
    options = " ".join(f"{letter} {number}" for letter, number in zip(LETTERS, numbers, strict=False))
    return _SHORT.format(folds=marks, shape=shape, options=options)


PUZZLE = Puzzle(NAME, draw, question, show)
BENCHMARK = PUZZLE.benchmark()
