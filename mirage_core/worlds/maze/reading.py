"""Reading the map from an image: every cell is compared with all possible tiles."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_core.errors import DataError, InputError
from mirage_core.worlds.maze.art import CELL_PX, CRACKED, FACINGS, tile
from mirage_core.worlds.maze.rules import GOAL, HOLE, LARGEST, SAFE, SMALLEST, START, Maze, maze_from_rows

# Mean grey levels that a cell may differ from its tile: enough for JPEG, far below the distance of two tiles.
_TOLERANCE = 6.0


def read_maze(image: Image.Image, cell_px: int = CELL_PX) -> Maze:
    """Read the maze that an image shows, wherever the player is; DataError for another image."""
    level = image_level(image, cell_px)
    pixels = np.asarray(image.convert("RGB"), dtype=np.int16)
    cells = pixels.reshape(level, cell_px, level, cell_px, 3).swapaxes(1, 2).reshape(level * level, cell_px, cell_px, 3)
    kinds, has_elf = zip(*(_read_cell(cell, i, level, cell_px) for i, cell in enumerate(cells)), strict=True)
    flat = list(kinds)
    if START not in flat:
        # The elf hides the stool: if no stool is visible, the elf is at the start.
        flat = [START if elf and kind == SAFE else kind for kind, elf in zip(kinds, has_elf, strict=True)]
    try:
        return maze_from_rows([flat[r * level : (r + 1) * level] for r in range(level)])
    except InputError as error:
        raise DataError(f"the image does not show a complete maze: {error}") from error


def image_level(image: Image.Image, cell_px: int = CELL_PX) -> int:
    """Return the level of a maze from its image's size; DataError for another size."""
    width, height = image.size
    if width != height or width % cell_px or not SMALLEST <= width // cell_px <= LARGEST:
        raise DataError(
            f"the image is {width}x{height}; expected a square maze of {SMALLEST} to {LARGEST} cells, "
            f"{cell_px} px a cell"
        )
    return width // cell_px


def _read_cell(cell: NDArray[np.int16], index: int, level: int, cell_px: int) -> tuple[int, bool]:
    """Return the kind of a cell, and whether the elf is on it."""
    names, tiles = _tiles(cell_px)
    distances = np.abs(tiles - cell).mean(axis=(1, 2, 3))
    best = int(distances.argmin())
    if distances[best] > _TOLERANCE:
        raise DataError(
            f"row {index // level + 1}, column {index % level + 1} of the image looks like no cell of a maze "
            f"(nearest tile {distances[best]:.0f} grey levels away); expected FrozenLake art at {cell_px} px a cell"
        )
    return names[best]


@lru_cache(maxsize=4)
def _tiles(cell_px: int) -> tuple[list[tuple[int, bool]], NDArray[np.int16]]:
    """Return all possible tiles: (kind, whether the elf is on it), and pixels [tiles, cell_px, cell_px, 3]."""
    named = [((kind, False), tile(kind, None, cell_px)) for kind in (SAFE, START, GOAL, HOLE)]
    named += [((kind, True), tile(kind, elf, cell_px)) for elf in FACINGS.values() for kind in (SAFE, GOAL)]
    named.append(((HOLE, False), tile(HOLE, CRACKED, cell_px)))
    return [name for name, _ in named], np.stack([pixels for _, pixels in named]).astype(np.int16)
