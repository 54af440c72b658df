"""Paper folding: a square sheet that is folded and then punched, and its drawing."""

from mirage_core.worlds.folding.art import HOLE_RGB, draw_sheet
from mirage_core.worlds.folding.rules import (
    NO_HOLE,
    SHAPES,
    SIDES,
    Fold,
    Layers,
    Region,
    layers,
    new_holes,
    random_folds,
    random_holes,
    regions,
    unfolded,
)

__all__ = [
    "HOLE_RGB",
    "NO_HOLE",
    "SHAPES",
    "SIDES",
    "Fold",
    "Layers",
    "Region",
    "draw_sheet",
    "layers",
    "new_holes",
    "random_folds",
    "random_holes",
    "regions",
    "unfolded",
]
