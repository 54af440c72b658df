"""Pictures of a report: opened with suspicion, and a plan drawn over its map."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from itertools import pairwise
from math import atan2, cos, pi, sin

from PIL import Image, ImageDraw

from mirage_core.errors import DataError

Cell = tuple[int, int]
RIGHT_COLOUR = (22, 163, 74)
WRONG_COLOUR = (220, 38, 38)
NEUTRAL_COLOUR = (37, 99, 200)
_OVERSAMPLE = 4
MAX_PIXELS = 80_000_000


def open_picture(data: bytes, name: str) -> Image.Image:
    """Decode an encoded picture to RGB; a broken or enormous one is a DataError that names it."""
    try:
        with Image.open(BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(f"{name}: {picture.width}x{picture.height} pixels, at most {MAX_PIXELS} are accepted")
            return picture.convert("RGB")
    except (OSError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{name}: not a readable picture ({error}); expected PNG or JPEG bytes") from error


def draw_plan(
    picture: Image.Image, cells: Sequence[Cell], shape: tuple[int, int], colour: tuple[int, int, int]
) -> Image.Image:
    """Draw a walk over a map: a line from cell centre to cell centre with an arrow head at its end.

    ``cells`` are (row, column), the start first; ``shape`` is (rows, columns) of the map.
    """
    if not cells:
        raise DataError("a walk has at least its start cell, got no cells")
    overlay = Image.new("RGBA", (picture.width * _OVERSAMPLE, picture.height * _OVERSAMPLE), (0, 0, 0, 0))
    pen = ImageDraw.Draw(overlay)
    side = (overlay.width / shape[1], overlay.height / shape[0])
    points = [((column + 0.5) * side[0], (row + 0.5) * side[1]) for row, column in _moves(cells)]
    unit = min(side)
    _stroke(pen, points, (255, 255, 255, 235), unit * 0.19, unit)
    _stroke(pen, points, (*colour, 255), unit * 0.11, unit)
    small = overlay.resize(picture.size, Image.Resampling.BOX)
    return Image.alpha_composite(picture.convert("RGBA"), small).convert("RGB")


def _moves(cells: Sequence[Cell]) -> list[Cell]:
    """Drop repeats, which are moves off the grid: the player stays where it is."""
    return [cell for index, cell in enumerate(cells) if index == 0 or cell != cells[index - 1]]


def _stroke(
    pen: ImageDraw.ImageDraw,
    points: Sequence[tuple[float, float]],
    colour: tuple[int, int, int, int],
    width: float,
    unit: float,
) -> None:
    """A round line through the points, a dot at the start and an arrow head (or a second dot) at the end."""
    radius = width / 2
    for a, b in pairwise(points):
        pen.line([a, b], fill=colour, width=round(width))
    for x, y in points[:-1]:
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    x, y = points[0]
    dot = radius + unit * 0.04
    pen.ellipse([x - dot, y - dot, x + dot, y + dot], fill=colour)
    if len(points) > 1:
        angle = atan2(points[-1][1] - points[-2][1], points[-1][0] - points[-2][0])
        _head(pen, points[-1], angle, colour, radius + unit * 0.13)


def _head(
    pen: ImageDraw.ImageDraw,
    tip: tuple[float, float],
    angle: float,
    colour: tuple[int, int, int, int],
    size: float,
) -> None:
    """A triangle round the last point, pointing the way of the last move."""
    turns = (0.0, 2 * pi / 3, -2 * pi / 3)
    pen.polygon([(tip[0] + size * cos(angle + t), tip[1] + size * sin(angle + t)) for t in turns], fill=colour)
