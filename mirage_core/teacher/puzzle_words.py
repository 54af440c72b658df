"""What the oracle says of rotations and foldings: thoughts on both sides of the image, and captions of it."""

from __future__ import annotations

import numpy as np

from mirage_core.benchmarks.mental_rotation import asked_cells, pattern_of
from mirage_core.benchmarks.multiple_choice import options_of
from mirage_core.benchmarks.paper_folding import fold_words, sheet_of
from mirage_core.teacher.phrases import PhrasePicker, Thoughts, cell_text, list_cells
from mirage_core.types import AuxiliaryImage, Problem, TrainingExample
from mirage_core.worlds.folding import SHAPES, unfolded
from mirage_core.worlds.grid import Cell, Grid
from mirage_core.worlds.rotation import COLOURS, TURNS, patterns_after


def rotation(problem: Problem, auxiliary_image: AuxiliaryImage, phrases: PhrasePicker) -> Thoughts:  # noqa: ARG001
    """Follow the tile that is asked for turn by turn; after the image, say its colour."""
    cells, turns = asked_cells(problem.facts), problem.facts["turns"]
    moves = [
        phrases.pick("A quarter turn {turn} takes it to {cell}.", "Turned {turn}, it is at {cell}.").format(
            turn=TURNS[turn], cell=cell_text(cell)
        )
        for turn, cell in zip(turns, cells[1:], strict=True)
    ]
    before = [
        f"The tile that ends at {cell_text(cells[-1])} is at {cell_text(cells[0])} now.",
        *moves,
        phrases.pick("I picture the turned pattern.", "Let me imagine the pattern after the turns."),
    ]
    colour = options_of(problem)[problem.answer]
    after = phrases.pick(
        f"In the turned pattern the tile at {cell_text(cells[-1])} is {colour}.",
        f"At {cell_text(cells[-1])} I now see a {colour} tile.",
    )
    return " ".join(before), after


def folding(problem: Problem, auxiliary_image: AuxiliaryImage, phrases: PhrasePicker) -> Thoughts:  # noqa: ARG001
    """Say the holes and undo the folds from the last one on; after the image, count the holes that are asked for."""
    holes, folds = sheet_of(problem.facts)
    sheets, shape = unfolded(holes, folds), problem.facts["shape"]
    before = [f"The folded sheet has {_count(holes, shape)}."]
    for fold, sheet in zip(reversed(folds), sheets[1:], strict=True):
        words = phrases.pick("I undo the fold of {fold}: now there are", "Unfolding {fold} gives")
        before.append(f"{words.format(fold=fold_words(fold))} {_count(sheet, shape)}.")
    before.append(phrases.pick("I picture the open sheet.", "Let me imagine the sheet when it is open."))
    cells = cells_of_shape(sheets[-1], shape)
    return " ".join(before), f"The {shape} holes of the open sheet are at {list_cells(cells)}: {len(cells)} in all."


def rotation_caption(example: TrainingExample, phrases: PhrasePicker) -> str:
    """Describe the turned pattern row by row."""
    turned = patterns_after(pattern_of(example.problem.facts), example.problem.facts["turns"])[-1]
    rows = "; ".join(", ".join(COLOURS[tile] for tile in row) for row in turned)
    return phrases.pick(
        f"After the turns the rows of tiles are, from the top: {rows}.", f"The turned pattern, row by row: {rows}."
    )


def folding_caption(example: TrainingExample, phrases: PhrasePicker) -> str:
    """Describe the unfolded sheet shape by shape."""
    sheet = unfolded(*sheet_of(example.problem.facts))[-1]
    cells = {shape: cells_of_shape(sheet, shape) for shape in SHAPES}
    parts = "; ".join(f"{shape} holes at {list_cells(found)}" for shape, found in cells.items() if found)
    return phrases.pick(f"The unfolded sheet has {parts}.", f"I see the open sheet with {parts}.")


def cells_of_shape(holes: Grid, shape: str) -> list[Cell]:
    """Return the cells of all holes of a shape, row by row."""
    return [(int(row), int(column)) for row, column in np.argwhere(holes == SHAPES.index(shape) + 1)]


def _count(holes: Grid, shape: str) -> str:
    number = len(cells_of_shape(holes, shape))
    return f"{number or 'no'} {shape} hole{'' if number == 1 else 's'}"
