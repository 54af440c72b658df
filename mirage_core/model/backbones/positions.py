"""Qwen's 3-D positions (M-RoPE) of many rows at once: text advances by one, an image spans (time, row, column).

Qwen2.5-VL and Qwen3-VL differ only in videos, which are not used here. Equal to stock ``get_rope_index`` row by row
(tested), about a hundred times faster, and independent of padding. Legend: B rows, N images, n tokens of
all rows.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mirage_core.errors import InputError

Ints = NDArray[np.int64]


def multimodal_positions(ids: Ints, lengths: Ints, grids: Ints, image_pad: int, merge: int) -> Ints:
    """Positions [3, n] of rows laid end to end: ids [n], lengths [B], grids [N, 3] (time, height, width in patches).

    InputError when the image_pad tokens do not fit the grids.
    """
    rows = np.repeat(np.arange(len(lengths)), lengths)
    image_tokens = np.flatnonzero(ids == image_pad)
    counts = grids.prod(-1) // merge**2
    _check_images(image_tokens, counts, rows)
    advance = np.ones(len(ids), dtype=np.int64)
    advance[image_tokens] = 0
    last = np.cumsum(counts) - 1
    advance[image_tokens[last]] = grids[:, 1:].max(-1, initial=0) // merge
    begin = np.cumsum(advance) - advance
    begin -= begin[np.cumsum(lengths) - lengths][rows]
    positions = np.broadcast_to(begin, (3, len(ids))).copy()
    if len(grids):
        offsets = [_offsets(int(t), int(h) // merge, int(w) // merge) for t, h, w in grids]
        positions[:, image_tokens] += np.concatenate(offsets, axis=1)
    return positions


@lru_cache(maxsize=1024)
def _offsets(time: int, height: int, width: int) -> Ints:
    """Return offsets [3, time * height * width] of an image's merged tokens, in raster order."""
    return np.indices((time, height, width), dtype=np.int64).reshape(3, -1)


def _check_images(image_tokens: Ints, counts: Ints, rows: Ints) -> None:
    """Check that each image's tokens exist, in one run, in one row."""
    if counts.sum() != len(image_tokens):
        raise InputError(
            f"{len(image_tokens)} image_pad tokens for images of {counts.tolist()} merged patches "
            f"({counts.sum()} in all). Encode text and images together, with one processor."
        )
    if not len(counts):
        return
    last = np.cumsum(counts) - 1
    first = last - counts + 1
    begin, end = image_tokens[first], image_tokens[last]
    broken = (end - begin != counts - 1) | (rows[begin] != rows[end])
    if broken.any():
        image = int(np.flatnonzero(broken)[0])
        raise InputError(
            f"The image_pad tokens of image {image} (row {rows[begin[image]]}) are not one run of {counts[image]}. "
            "Pass the images in the order of their tokens in the text."
        )
