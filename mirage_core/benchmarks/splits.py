"""The split of a maze is fixed by its canonical form, so that no two splits ever share a map.

The assignment does not depend on seeds or counts: every benchmark, seed and data size separates the same maps, and
held-out maps have the same distribution as the others. (The likeliest maps as test maps would not: at level 3 only 879
solvable maps differ, and 150 of them have 71 % of the probability.)
"""

from __future__ import annotations

import hashlib

from mirage_core.types import Split
from mirage_core.worlds.maze import Maze, canonical

TEST_SHARE, VALIDATION_SHARE = 0.35, 0.10


def split_of(maze: Maze) -> Split:
    """The split of a maze, the same for all of its 8 orientations."""
    return split_of_form(canonical(maze))


def split_of_form(form: str) -> Split:
    """The split of a canonical form: a fixed share of all forms, by digest."""
    share = int.from_bytes(hashlib.sha256(form.encode()).digest()[:8], "big") / 2**64
    if share < TEST_SHARE:
        return "test"
    return "validation" if share < TEST_SHARE + VALIDATION_SHARE else "train"
