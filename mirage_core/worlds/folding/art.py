"""Images of a sheet: its cells on a dark table, with holes whose shapes have a colour each."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mirage_core.worlds.folding.rules import NO_HOLE, SHAPES, Region
from mirage_core.worlds.grid import Grid

PAPER, LINE, TABLE = (250, 241, 220), (190, 178, 150), (96, 101, 112)
HOLE_RGB = ((30, 60, 160), (170, 40, 40), (20, 120, 60))
"""The colours of holes in the order of ``SHAPES``."""


def draw_sheet(holes: Grid, place: Region, cell_px: int) -> Image.Image:
    """Draw holes [n, n] and the sheet, which lies in ``place``, as an RGB image of side n * ``cell_px``."""
    side = len(holes)
    canvas = np.empty((side, cell_px, side, cell_px, 3), dtype=np.uint8)
    canvas[:] = TABLE
    for row in range(place.top, place.bottom):
        for column in range(place.left, place.right):
            canvas[row, :, column] = _cell(int(holes[row, column]), cell_px)
    return Image.fromarray(canvas.reshape(side * cell_px, side * cell_px, 3))


@lru_cache(maxsize=64)
def _cell(hole: int, cell_px: int) -> NDArray[np.uint8]:
    """Return the pixels of a cell of paper [cell_px, cell_px, 3], with a hole (1 + its shape) or without one."""
    image = Image.new("RGB", (cell_px, cell_px), PAPER)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, cell_px - 1, cell_px - 1), outline=LINE)
    if hole != NO_HOLE:
        low, high, middle = cell_px * 0.22, cell_px * 0.78 - 1, (cell_px - 1) / 2
        fill, shape = HOLE_RGB[hole - 1], SHAPES[hole - 1]
        if shape == "round":
            draw.ellipse((low, low, high, high), fill=fill)
        elif shape == "square":
            draw.rectangle((low, low, high, high), fill=fill)
        else:
            draw.polygon([(middle, low), (high, middle), (middle, high), (low, middle)], fill=fill)
    return np.asarray(image)
