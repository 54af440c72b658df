"""Where the frames of a film change, as merged visual tokens of the problem's first image.

Images are compared as pixels at their own resolution: a processor that scales them blurs a change into tokens beside
it. Legend: n frames, H x W tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Mask = NDArray[np.bool_]


def changed_tokens(image: Image.Image, frames: Sequence[Image.Image], grid: tuple[int, int], tolerance: float) -> Mask:
    """Return the tokens [n, H * W] that each frame changes; ``grid``: the tokens of ``image``, H and W.

    A frame changes what differs from the frame before (the first from ``image``) and from ``image`` too: where
    something was taken away, so that ``image`` shows again, nothing new is to be seen. Where a frame only takes
    something away, it changes all that differs from the frame before; where it differs in nothing, what the frame
    before changed. Images that differ by ``tolerance`` or less, in mean grey levels of a token, are equal there.
    All must have the size of ``image``.
    """
    pixels = [np.asarray(each, dtype=np.float32) for each in (image, *frames)]
    masks: list[Mask] = []
    for before, now in pairwise(pixels):
        moved = _differ(before, now, grid, tolerance)
        new = moved & _differ(pixels[0], now, grid, tolerance)
        kept = masks[-1] if masks else moved
        masks.append(new if new.any() else moved if moved.any() else kept)
    return np.stack(masks) if masks else np.zeros((0, grid[0] * grid[1]), dtype=bool)


def _differ(first: NDArray[np.float32], second: NDArray[np.float32], grid: tuple[int, int], tolerance: float) -> Mask:
    """Return the tokens [H * W] in which two images [height, width, 3] differ by more than ``tolerance``."""
    difference = np.abs(first - second).mean(-1)
    rows, columns = (
        np.linspace(0, size, tokens + 1).round().astype(int)[:-1]
        for size, tokens in zip(difference.shape, grid, strict=True)
    )
    sums = np.add.reduceat(np.add.reduceat(difference, rows, axis=0), columns, axis=1)
    sizes = np.outer(np.diff([*rows, difference.shape[0]]), np.diff([*columns, difference.shape[1]]))
    return (sums / sizes > tolerance).ravel()
