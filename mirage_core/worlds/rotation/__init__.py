"""Mental rotation: a pattern of coloured tiles that is turned by quarter turns, and its drawing."""

from mirage_core.worlds.rotation.art import COLOUR_RGB, draw_pattern
from mirage_core.worlds.rotation.rules import (
    COLOURS,
    TURNS,
    cells_of_tile,
    patterns_after,
    random_pattern,
    random_turns,
    turned,
)

__all__ = [
    "COLOURS",
    "COLOUR_RGB",
    "TURNS",
    "cells_of_tile",
    "draw_pattern",
    "patterns_after",
    "random_pattern",
    "random_turns",
    "turned",
]
