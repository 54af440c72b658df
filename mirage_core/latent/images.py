"""Encoded pictures to RGB, opened with suspicion."""

from __future__ import annotations

import io
import warnings

from PIL import Image

from mirage_core.errors import DataError

# HR-Bench 8K has 33 million; Pillow itself warns from 89 million on.
MAX_PICTURE_PIXELS = 80_000_000


def open_picture(data: bytes, scale: float, what: str) -> Image.Image:
    """A PNG or JPEG as RGB, both sides times ``scale``. DataError, naming ``what``, when it is broken or too large."""
    picture = _opened(data, what)
    try:
        picture = picture.convert("RGB")
    except Exception as error:
        raise _broken(what, error) from error
    return scaled(picture, scale)


def picture_size(data: bytes, scale: float, what: str) -> tuple[int, int]:
    """Width and height that ``open_picture`` would give, read from the header alone. DataError as there."""
    return _scaled_size(_opened(data, what), scale)


def _opened(data: bytes, what: str) -> Image.Image:
    """A picture whose header was read. Pillow raises errors of many kinds on broken files, its warning among them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture: Image.Image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Exception as error:
        raise _broken(what, error) from error
    if picture.width * picture.height > MAX_PICTURE_PIXELS:
        raise DataError(
            f"{what} is {picture.width}x{picture.height}; at most {MAX_PICTURE_PIXELS} pixels are read. Scale it down."
        )
    return picture


def _broken(what: str, error: Exception) -> DataError:
    return DataError(f"{what} cannot be decoded ({error}); expected a whole PNG or JPEG.")


def scaled(picture: Image.Image, scale: float) -> Image.Image:
    """The picture with both sides times ``scale``, rounded."""
    if scale == 1.0:
        return picture
    return picture.resize(_scaled_size(picture, scale), Image.Resampling.BICUBIC)


def _scaled_size(picture: Image.Image, scale: float) -> tuple[int, int]:
    return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
