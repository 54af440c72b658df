"""A square sheet of paper: folded along its grid lines, punched through all layers, and unfolded again.

Legend: n cells of a side. Holes are a grid [n, n]: 0 none, else 1 + the number in ``SHAPES``. A fold lays the outer
rows or columns of one side over the rest, which is at least as wide; what they leave is empty from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mirage_core.errors import InputError
from mirage_core.worlds.grid import Cell, Grid

SHAPES = ("round", "square", "diamond")
NO_HOLE = 0
SIDES = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
"""The sides that a fold takes up, and the side that it lays them towards."""
_HOLE_PROBABILITY = 0.5
_FOLD_DRAWS = 200


@dataclass(frozen=True, slots=True)
class Fold:
    """The outer ``width`` rows or columns of a side, folded over onto the rest."""

    side: str
    width: int


@dataclass(frozen=True, slots=True)
class Region:
    """The rectangle where the sheet lies: rows from ``top`` to before ``bottom``, columns ``left`` to ``right``."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """Its number of cells."""
        return (self.bottom - self.top) * (self.right - self.left)

    def after(self, fold: Fold) -> Region:
        """Return where the sheet lies after a fold; InputError if the folded part is wider than the rest."""
        sideways = fold.side in ("left", "right")
        length = self.right - self.left if sideways else self.bottom - self.top
        if fold.side not in SIDES or not 0 < fold.width <= length - fold.width:
            raise InputError(
                f"got {fold} of a sheet with {length} cells there, expected a side among {', '.join(SIDES)} and a "
                f"width of 1 to {length // 2}"
            )
        return Region(
            self.top + fold.width * (fold.side == "top"),
            self.bottom - fold.width * (fold.side == "bottom"),
            self.left + fold.width * (fold.side == "left"),
            self.right - fold.width * (fold.side == "right"),
        )

    @property
    def cells(self) -> tuple[slice, slice]:
        """The index of its cells in a grid."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def regions(side: int, folds: Sequence[Fold]) -> list[Region]:
    """Return where a sheet of ``side`` cells a side lies: before the folds, and after each of them."""
    places = [Region(0, side, 0, side)]
    for fold in folds:
        places.append(places[-1].after(fold))
    return places


def unfolded(holes: Grid, folds: Sequence[Fold]) -> list[Grid]:
    """Return the holes [n, n] of the folded sheet, then those after each unfolding, the last fold first."""
    places = regions(len(holes), folds)
    sheets = [holes]
    for fold, before in zip(reversed(folds), reversed(places[:-1]), strict=True):
        sheets.append(_opened(sheets[-1], fold, before))
    return sheets


def _opened(holes: Grid, fold: Fold, before: Region) -> Grid:
    """Unfold one fold of a sheet that lay in ``before`` until then: its holes are mirrored about the line."""
    sheet, width = holes.copy(), fold.width
    if fold.side in ("left", "right"):
        at = before.left if fold.side == "left" else before.right - 2 * width
        flap, under = slice(at, at + width), slice(at + width, at + 2 * width)
        flap, under = (flap, under) if fold.side == "left" else (under, flap)
        sheet[:, flap] = holes[:, under][:, ::-1]
    else:
        at = before.top if fold.side == "top" else before.bottom - 2 * width
        flap, under = slice(at, at + width), slice(at + width, at + 2 * width)
        flap, under = (flap, under) if fold.side == "top" else (under, flap)
        sheet[flap] = holes[under][::-1]
    return sheet


def new_holes(sheets: Sequence[Grid]) -> list[list[Cell]]:
    """Return the cells of the holes that each unfolding shows, row by row; ``sheets`` as ``unfolded`` returns them."""
    return [
        [(int(row), int(column)) for row, column in np.argwhere(after != before)] for before, after in pairwise(sheets)
    ]


@dataclass(frozen=True, slots=True)
class Layers:
    """How a sheet lies when it is folded: ``depth`` [n, n] counts the layers of paper in each cell.

    ``under`` [n, n] is the cell of the folded sheet (row * n + column) on which each cell of the open sheet lies.
    ``bared`` [folds, n, n], in the order of unfolding, says of which cells of the folded sheet a layer comes to light.
    """

    depth: NDArray[np.int64]
    under: NDArray[np.int64]
    bared: NDArray[np.bool_]


def layers(side: int, folds: Sequence[Fold]) -> Layers:
    """Return how a sheet of ``side`` cells a side, 11 at most, lies when it is folded."""
    place = regions(side, folds)[-1]
    numbers = np.zeros((side, side), dtype=np.int8)
    numbers[place.cells] = 1 + np.arange(side * side).reshape(side, side)[place.cells]
    sheets = unfolded(numbers, folds)
    under = sheets[-1].astype(np.int64) - 1
    depth = np.bincount(under.ravel(), minlength=side * side).reshape(side, side)
    bared = [np.isin(numbers, after[after != before]) for before, after in pairwise(sheets)]
    return Layers(depth, under, np.array(bared, dtype=np.bool_).reshape(len(folds), side, side))


def random_folds(rng: np.random.Generator, side: int, number: int, smallest: int) -> list[Fold]:
    """Draw folds that leave at least ``smallest`` cells; InputError where there hardly are any."""
    for _ in range(_FOLD_DRAWS):
        folds, place = [], Region(0, side, 0, side)
        for _ in range(number):
            names = [name for name in SIDES if _length(place, name) > 1]
            if not names:
                break
            name = names[int(rng.integers(len(names)))]
            folds.append(Fold(name, int(rng.integers(1, _length(place, name) // 2 + 1))))
            place = place.after(folds[-1])
        if len(folds) == number and place.area >= smallest:
            return folds
    raise InputError(
        f"a sheet of {side} x {side} cells that is folded {number} times hardly ever has {smallest} cells left; "
        "ask for fewer folds"
    )


def random_holes(rng: np.random.Generator, side: int, folds: Sequence[Fold], number: int) -> Grid:
    """Draw the holes of ``number`` folded sheets [number, n, n]: half of the cells have one, of any shape."""
    place = regions(side, folds)[-1]
    holes = np.zeros((number, side, side), dtype=np.int8)
    area = holes[:, *place.cells]
    punched = rng.random(area.shape) < _HOLE_PROBABILITY
    area[punched] = rng.integers(1, len(SHAPES) + 1, size=int(punched.sum()))
    return holes


def _length(place: Region, side: str) -> int:
    return place.right - place.left if side in ("left", "right") else place.bottom - place.top
