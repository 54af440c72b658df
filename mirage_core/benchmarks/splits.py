"""Which split a maze belongs to: fixed by its canonical form, so that no two splits ever share a map.

The choice depends on no seed and no count: every benchmark, seed and data size keeps the same maps apart, and held-out
maps are drawn from the same distribution as the others. (Taking the likeliest maps for testing would not be: at level 3
only 879 solvable maps differ, and 150 of them hold 71 % of the probability.)
"""

from __future__ import annotations

import hashlib

from mirage_core.types import Split
from mirage_core.worlds.maze import Maze, canonical

TEST_SHARE, VALIDATION_SHARE = 0.35, 0.10


def split_of(maze: Maze) -> Split:
    """The split a maze, in any of its 8 orientations, may stand in."""
    return split_of_form(canonical(maze))


def split_of_form(form: str) -> Split:
    """The split of a canonical form: a fixed share of all forms, chosen by digest."""
    share = int.from_bytes(hashlib.sha256(form.encode()).digest()[:8], "big") / 2**64
    if share < TEST_SHARE:
        return "test"
    return "validation" if share < TEST_SHARE + VALIDATION_SHARE else "train"
