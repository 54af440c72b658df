"""The map after some steps of a plan: what spatial reasoning imagines.

As in the published pictures, the stool stays where the player started, and the elf stands where it came, looking where
it moved last; in a hole, cracked ice stands for it. How the step is chosen is not published, and is a setting.
"""

from __future__ import annotations

import zlib

import numpy as np
from PIL import Image

from mirage_core.config import AuxiliaryImageSettings
from mirage_core.errors import InputError
from mirage_core.worlds.maze import Maze, Player, render, walk


def draw_map_after_step(maze: Maze, plan: str, step: int, cell_px: int = 64) -> Image.Image:
    """The map after ``step`` moves of the plan; after a hole or the goal the player stays where it is."""
    if not 0 <= step <= len(plan):
        raise InputError(f"step {step} of a plan of {len(plan)} moves; expected 0 to {len(plan)}")
    cells = walk(maze, plan[:step], stop_at_goal=True).cells
    facing = plan[len(cells) - 2] if len(cells) > 1 else "D"
    return render(maze, cell_px, Player(cells[-1], facing))


def choose_step(problem_id: str, plan: str, settings: AuxiliaryImageSettings, seed: int) -> int:
    """Which step is drawn, 1 to the plan's length; ``random`` depends on the seed and the problem alone."""
    if settings.reasoning_step == "first":
        return 1
    if settings.reasoning_step == "middle":
        return (len(plan) + 1) // 2
    if settings.reasoning_step == "last":
        return len(plan)
    rng = np.random.default_rng([seed, zlib.crc32(problem_id.encode())])
    return int(rng.integers(1, len(plan) + 1))
