"""Encoded pictures to RGB, opened with suspicion."""

from __future__ import annotations

import io
import warnings

from PIL import Image

from mirage_core.errors import DataError

MAX_PICTURE_PIXELS = 32_000_000


def open_picture(data: bytes, scale: float, what: str) -> Image.Image:
    """A PNG or JPEG as RGB, both sides times ``scale``. DataError, naming ``what``, when it is broken or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture: Image.Image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
        too_large = picture.width * picture.height > MAX_PICTURE_PIXELS
        if not too_large:
            picture = picture.convert("RGB")
    except Exception as error:
        # Pillow raises errors of many kinds on broken files, its decompression warning among them.
        raise DataError(f"{what} cannot be decoded ({error}); expected a whole PNG or JPEG.") from error
    if too_large:
        raise DataError(
            f"{what} is {picture.width}x{picture.height}; at most {MAX_PICTURE_PIXELS} pixels are read. Scale it down."
        )
    return scaled(picture, scale)


def scaled(picture: Image.Image, scale: float) -> Image.Image:
    """The picture with both sides times ``scale``, rounded."""
    if scale == 1.0:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC)
