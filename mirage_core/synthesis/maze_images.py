"""Arrows along a plan on the start map, one a move, from the middle of a cell to the middle of the next.

The paper shows red arrows along the ground-truth path; width, head and exact red are not published and are settings.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from mirage_core.config import AuxiliaryImageSettings
from mirage_core.errors import InputError
from mirage_core.worlds.maze import MOVES, Cell, Maze, Player, render, walk

# Drawn this many times larger and reduced: smooth edges, which a plain polygon has not.
_SMOOTHING = 8
_TURNS = {"R": 0, "U": 1, "L": 2, "D": 3}


def draw_arrows(maze: Maze, plan: str, settings: AuxiliaryImageSettings, cell_px: int = 64) -> Image.Image:
    """The start map with an arrow for every move of the plan that changes the cell (to the plan's end or a hole)."""
    picture = render(maze, cell_px)
    cells = walk(maze, plan).cells
    for move, here, there in zip(plan, cells, cells[1:], strict=False):
        if here != there:
            mask = _arrow(move, cell_px, settings.arrow_width, settings.arrow_head)
            picture.paste(settings.arrow_color, _corner(here, move, cell_px), mask)
    return picture


def _corner(cell: Cell, move: str, cell_px: int) -> tuple[int, int]:
    """The upper left corner (x, y) of the two cells an arrow spans."""
    row, column = cell[0] + min(0, MOVES[move][0]), cell[1] + min(0, MOVES[move][1])
    return column * cell_px, row * cell_px


@lru_cache(maxsize=64)
def _arrow(move: str, cell_px: int, width: float, head: float) -> Image.Image:
    """The shape of one arrow as a mask over two cells, tail at the first middle and tip at the second."""
    unit = cell_px * _SMOOTHING
    mask = Image.new("L", (2 * unit, unit))
    half, barb, neck = width / 2, max(width, head * 0.45), 1.5 - head
    outline = [
        (0.5 - half, 0.5 - half), (neck, 0.5 - half), (neck, 0.5 - barb), (1.5, 0.5),
        (neck, 0.5 + barb), (neck, 0.5 + half), (0.5 - half, 0.5 + half),
    ]  # fmt: skip
    ImageDraw.Draw(mask).polygon([(x * unit, y * unit) for x, y in outline], fill=255)
    small = mask.resize((2 * cell_px, cell_px), Image.Resampling.BOX)
    return small.rotate(90 * _TURNS[move], expand=True)


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
