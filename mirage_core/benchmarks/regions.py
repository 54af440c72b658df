"""The regions of a problem's first image that its answer is about, as boxes: what the latents of LVR are held to."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence

from mirage_core.errors import DataError
from mirage_core.image_files import read_rgb
from mirage_core.types import Problem

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, as shares of the image's width and height."""
Region = tuple[Box, ...]
"""The boxes that one span shows one after the other; most regions have one."""
BOXES = "boxes"
"""The key of a problem's boxes among its facts, where a data set gives them."""


def checked_box(box: Sequence[float], what: str) -> Box:
    """Return a box; DataError, naming ``what``, unless it has four shares, left of right and top above bottom."""
    numbers = [edge for edge in box if isinstance(edge, int | float) and not isinstance(edge, bool)]
    if len(box) == 4 == len(numbers):
        left, top, right, bottom = map(float, numbers)
        if 0 <= left < right <= 1 and 0 <= top < bottom <= 1:
            return left, top, right, bottom
    raise DataError(
        f"{what} is {list(box)}, expected left, top, right, bottom as shares of the image's width and height, with "
        "0 <= left < right <= 1 and 0 <= top < bottom <= 1"
    )


def given_regions(problem: Problem) -> tuple[Region, ...]:
    """Return a region for each box among the problem's facts; none where its data set gives none."""
    boxes = problem.facts.get(BOXES, ())
    return tuple((checked_box(box, f"a box of problem {problem.id}"),) for box in boxes)


def cell_boxes(cells: Iterable[tuple[int, int]], size: int) -> Region:
    """Return the boxes of (row, column) cells of a square picture of ``size`` x ``size`` cells, in their order."""
    return tuple((column / size, row / size, (column + 1) / size, (row + 1) / size) for row, column in cells)


def cropped(image: bytes, region: Region) -> bytes:
    """Return the part of an encoded image that holds all boxes of a region, edges rounded outwards, as PNG."""
    picture = read_rgb(image, "an image with regions")
    left, top = (min(box[edge] for box in region) for edge in (0, 1))
    right, bottom = (max(box[edge] for box in region) for edge in (2, 3))
    width, height = picture.size
    edges = (math.floor(left * width), math.floor(top * height), math.ceil(right * width), math.ceil(bottom * height))
    file = io.BytesIO()
    picture.crop(edges).save(file, "PNG")
    return file.getvalue()
