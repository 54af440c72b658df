"""Images of mazes in the FrozenLake art of gymnasium up to 1.2.3, as in the published benchmark.

A cell is ice, then stool (start), goal or hole, then a one-pixel outline; the elf is on top, facing its last move. On a
hole cracked ice replaces the elf. All published images are matched within 1 grey level.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_core.errors import SettingsError
from mirage_core.worlds.maze.rules import GOAL, HOLE, SAFE, START, Cell, Maze

CELL_PX = 64
OUTLINE = (180, 200, 230)
FACINGS = {"U": "elf_up", "D": "elf_down", "L": "elf_left", "R": "elf_right"}
CRACKED = "cracked_hole"
_BASES = {SAFE: None, START: "stool", GOAL: "goal", HOLE: "hole"}
_ART = ("ice", "stool", "goal", "hole", CRACKED, *FACINGS.values())
# sha256 of the pixels of the files above in gymnasium 1.2.3; later releases ship other art.
_ART_SHA256 = "6b87054eb76e570473917c41a1da14522171abb4ec44da9e524a4ae4981f3fd0"


@dataclass(frozen=True, slots=True)
class Player:
    """The elf's cell, and its last move ("D" before any move)."""

    cell: Cell
    facing: str = "D"


def render(maze: Maze, cell_px: int = CELL_PX, player: Player | None = None) -> Image.Image:
    """Draw the maze as an RGB image of side ``level * cell_px``; without ``player`` the elf is at the start."""
    player = player or Player(maze.start)
    level = maze.level
    canvas = np.empty((level, cell_px, level, cell_px, 3), dtype=np.uint8)
    for r, row in enumerate(maze.cells):
        for c, kind in enumerate(row):
            canvas[r, :, c] = tile(kind, None, cell_px)
    kind = maze[player.cell]
    overlay = CRACKED if kind == HOLE else FACINGS[player.facing]
    canvas[player.cell[0], :, player.cell[1]] = tile(kind, overlay, cell_px)
    return Image.fromarray(canvas.reshape(level * cell_px, level * cell_px, 3))


def picture_bytes(picture: Image.Image) -> bytes:
    """Encode an image as PNG, with fast compression (these images are flat; a higher level saves little)."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@lru_cache(maxsize=512)
def tile(kind: int, overlay: str | None, cell_px: int) -> NDArray[np.uint8]:
    """Return the pixels of a cell [cell_px, cell_px, 3]; sizes other than 64 are scaled from it."""
    art = _art()
    cell = art["ice"].copy()
    base = _BASES[kind]
    if base is not None:
        cell.alpha_composite(art[base])
    pixels = np.array(cell)
    pixels[[0, -1], :, :3] = OUTLINE
    pixels[:, [0, -1], :3] = OUTLINE
    cell = Image.fromarray(pixels)
    if overlay is not None:
        cell.alpha_composite(art[overlay])
    rgb = cell.convert("RGB")
    if cell_px != CELL_PX:
        rgb = rgb.resize((cell_px, cell_px), Image.Resampling.BOX)
    tile_pixels = np.array(rgb)
    tile_pixels.flags.writeable = False
    return tile_pixels


@lru_cache(maxsize=1)
def _art() -> dict[str, Image.Image]:
    """Load the package's drawings, doubled to 64 px a cell; SettingsError if they are missing or different."""
    folder = _art_folder()
    try:
        drawings = {name: Image.open(folder / f"{name}.png").convert("RGBA") for name in _ART}
    except OSError as error:
        raise SettingsError(f"cannot read the FrozenLake art in {folder} ({error}); {_WAY_OUT}") from error
    digest = hashlib.sha256(b"".join(drawings[name].tobytes() for name in _ART)).hexdigest()
    if digest != _ART_SHA256:
        raise SettingsError(
            f"the FrozenLake art in {folder} is not the benchmark's (sha256 {digest[:12]}, expected "
            f"{_ART_SHA256[:12]}); {_WAY_OUT}"
        )
    return {name: drawing.resize((CELL_PX, CELL_PX), Image.Resampling.NEAREST) for name, drawing in drawings.items()}


_WAY_OUT = "install gymnasium<=1.2.3, whose art the benchmark uses"


def _art_folder() -> Path:
    """Return the folder of gymnasium's toy-text drawings without importing gymnasium (that takes a second)."""
    spec = find_spec("gymnasium")
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError(f"gymnasium is not installed, so mazes cannot be drawn; {_WAY_OUT}")
    return Path(spec.submodule_search_locations[0]) / "envs" / "toy_text" / "img"
