"""Auxiliary images of mazes: arrows along a plan on the start map, or the map after some moves.

The paper shows red arrows along the ground-truth path; their width, head and exact red are not published: settings.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from mirage_core.config import AuxiliaryImageSettings
from mirage_core.errors import DataError, InputError
from mirage_core.types import Problem
from mirage_core.worlds.maze import MOVES, Cell, Maze, Player, maze_from_rows, render, walk

# Supersampling factor, for smooth edges.
_SMOOTHING = 8
_HUE_STEP = 24
_TURNS = {"R": 0, "U": 1, "L": 2, "D": 3}


_ALL = slice(None)


def maze_of(problem: Problem) -> Maze:
    """Return the maze of a problem; DataError where its image could not be read as one."""
    if "map" not in problem.facts:
        raise DataError(
            f"problem {problem.id} has no map (its image could not be read as a maze), so nothing can be drawn for it"
        )
    return maze_from_rows(problem.facts["map"])


def draw_arrows(
    maze: Maze, plan: str, settings: AuxiliaryImageSettings, cell_px: int = 64, moves: slice = _ALL
) -> Image.Image:
    """Draw the start map with an arrow for every move that changes the cell, up to the plan's end or a hole.

    ``moves``: those of the plan that are shown.
    """
    image = render(maze, cell_px)
    cells = walk(maze, plan).cells
    for move, cell, following in list(zip(plan, cells, cells[1:], strict=False))[moves]:
        if cell != following:
            mask = _arrow(move, cell_px, settings.arrow_width, settings.arrow_head)
            image.paste(settings.arrow_color, _corner(cell, move, cell_px), mask)
    return image


def _corner(cell: Cell, move: str, cell_px: int) -> tuple[int, int]:
    """Return the upper left corner (x, y) of the two cells that an arrow spans."""
    row, column = cell[0] + min(0, MOVES[move][0]), cell[1] + min(0, MOVES[move][1])
    return column * cell_px, row * cell_px


@lru_cache(maxsize=64)
def _arrow(move: str, cell_px: int, width: float, head: float) -> Image.Image:
    """Return the mask of an arrow over two cells, from the centre of the first to the centre of the second."""
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
    """Draw the map after ``step`` moves of the plan; after a hole or the goal the player does not move."""
    if not 0 <= step <= len(plan):
        raise InputError(f"step {step} of a plan of {len(plan)} moves; expected 0 to {len(plan)}")
    cells = walk(maze, plan[:step], stop_at_goal=True).cells
    facing = plan[len(cells) - 2] if len(cells) > 1 else "D"
    return render(maze, cell_px, Player(cells[-1], facing))


def draw_distances(maze: Maze, rings: Sequence[Sequence[Cell]], cell_px: int = 64) -> Image.Image:
    """Draw the start map with a tint over the cells of each ring: red the goal, blue far from it."""
    image = render(maze, cell_px)
    for distance, ring in enumerate(rings):
        tint = Image.new("RGB", (cell_px, cell_px), f"hsl({min(240, _HUE_STEP * distance)}, 100%, 50%)")
        for row, column in ring:
            corner = (column * cell_px, row * cell_px)
            below = image.crop((*corner, corner[0] + cell_px, corner[1] + cell_px))
            image.paste(Image.blend(below, tint, 0.5), corner)
    return image


def choose_step(problem_id: str, plan: str, settings: AuxiliaryImageSettings, seed: int) -> int:
    """Return the step to draw, 1 to the plan's length; ``random`` depends only on the seed and the problem."""
    if settings.reasoning_step == "first":
        return 1
    if settings.reasoning_step == "middle":
        return (len(plan) + 1) // 2
    if settings.reasoning_step == "last":
        return len(plan)
    rng = np.random.default_rng([seed, zlib.crc32(problem_id.encode())])
    return int(rng.integers(1, len(plan) + 1))
