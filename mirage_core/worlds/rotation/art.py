"""Images of patterns: a square tile in each cell, on light grey."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mirage_core.worlds.grid import Grid

GROUND = (235, 235, 235)
COLOUR_RGB = ((214, 39, 40), (44, 150, 60), (40, 90, 200), (250, 205, 50))
"""The colours of the tiles in the order of ``COLOURS``."""


def draw_pattern(pattern: Grid, cell_px: int) -> Image.Image:
    """Draw a pattern [n, n] as an RGB image of side n * ``cell_px``; a sixteenth of a cell is free around each tile."""
    side, margin = len(pattern), cell_px // 16
    canvas = np.full((side, cell_px, side, cell_px, 3), GROUND, dtype=np.uint8)
    tile = slice(margin, cell_px - margin)
    canvas[:, tile, :, tile] = np.array(COLOUR_RGB, dtype=np.uint8)[pattern][:, None, :, None]
    return Image.fromarray(canvas.reshape(side * cell_px, side * cell_px, 3))
