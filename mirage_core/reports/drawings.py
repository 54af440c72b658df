"""Images of a report: checked and decoded, drawn on, and encoded for a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from itertools import pairwise
from math import atan2, cos, pi, sin

from PIL import Image, ImageDraw

from mirage_core.errors import DataError
from mirage_core.image_files import read_rgb

Cell = tuple[int, int]
RIGHT_COLOUR = (22, 163, 74)
WRONG_COLOUR = (220, 38, 38)
NEUTRAL_COLOUR = (37, 99, 200)
_OVERSAMPLE = 4
IMAGE_WIDTH = 200


def open_image(data: bytes, name: str) -> Image.Image:
    """Decode an image to RGB. DataError, with ``name``, for a broken or oversized image."""
    return read_rgb(data, name)


def data_uri(data: bytes, kind: str) -> str:
    """Encoded image bytes as a data URI for a page."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def image_uri(image: Image.Image | bytes, width: int = IMAGE_WIDTH) -> str:
    """A copy of an image, at most ``width`` pixels wide, as a data URI: lossy WebP, some kilobytes."""
    shown = open_image(image, "image") if isinstance(image, bytes) else image
    if shown.width > width:
        shown = shown.resize((width, max(1, round(shown.height * width / shown.width))), Image.Resampling.LANCZOS)
    buffer = BytesIO()
    shown.save(buffer, "WEBP", quality=84, method=4)
    return data_uri(buffer.getvalue(), "webp")


def draw_plan(
    image: Image.Image, cells: Sequence[Cell], shape: tuple[int, int], colour: tuple[int, int, int]
) -> Image.Image:
    """Draw a path over a map: a line from cell centre to cell centre with an arrow head at its end.

    ``cells`` are (row, column), the start first; ``shape`` is (rows, columns) of the map.
    """
    if not cells:
        raise DataError("a path has at least its start cell, got no cells")
    overlay = Image.new("RGBA", (image.width * _OVERSAMPLE, image.height * _OVERSAMPLE), (0, 0, 0, 0))
    pen = ImageDraw.Draw(overlay)
    side = (overlay.width / shape[1], overlay.height / shape[0])
    points = [((column + 0.5) * side[0], (row + 0.5) * side[1]) for row, column in _moves(cells)]
    unit = min(side)
    _stroke(pen, points, (255, 255, 255, 235), unit * 0.19, unit)
    _stroke(pen, points, (*colour, 255), unit * 0.11, unit)
    small = overlay.resize(image.size, Image.Resampling.BOX)
    return Image.alpha_composite(image.convert("RGBA"), small).convert("RGB")


def _moves(cells: Sequence[Cell]) -> list[Cell]:
    """Drop repeated cells, which are moves off the grid that leave the player in place."""
    return [cell for index, cell in enumerate(cells) if index == 0 or cell != cells[index - 1]]


def _stroke(
    pen: ImageDraw.ImageDraw,
    points: Sequence[tuple[float, float]],
    colour: tuple[int, int, int, int],
    width: float,
    unit: float,
) -> None:
    """A round line through the points, with a dot at the start and an arrow head at the end."""
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
    """A triangle around the last point, in the direction of the last move."""
    turns = (0.0, 2 * pi / 3, -2 * pi / 3)
    pen.polygon([(tip[0] + size * cos(angle + t), tip[1] + size * sin(angle + t)) for t in turns], fill=colour)
