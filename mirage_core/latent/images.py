"""Decode PNG and JPEG images to RGB; broken and oversized files are refused."""

from __future__ import annotations

import io
import warnings

from PIL import Image

from mirage_core.errors import DataError

# HR-Bench 8K images have 33 million; Pillow itself warns from 89 million on.
MAX_IMAGE_PIXELS = 80_000_000


def open_image(data: bytes, scale: float, what: str) -> Image.Image:
    """Open a PNG or JPEG as RGB, sides times ``scale``. DataError, naming ``what``, if it is broken or too large."""
    image = _read_header(data, what)
    try:
        image = image.convert("RGB")
    except Exception as error:
        raise _decode_error(what, error) from error
    return scale_image(image, scale)


def image_size(data: bytes, scale: float, what: str) -> tuple[int, int]:
    """Width and height of what ``open_image`` returns, from the header alone. DataError as there."""
    return _scaled_size(_read_header(data, what), scale)


def _read_header(data: bytes, what: str) -> Image.Image:
    """Open an image without decoding it. Pillow raises many kinds of errors, and a warning, for broken files."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG"))
    except Exception as error:
        raise _decode_error(what, error) from error
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise DataError(
            f"{what} is {image.width}x{image.height}; at most {MAX_IMAGE_PIXELS} pixels are read. Scale it down."
        )
    return image


def _decode_error(what: str, error: Exception) -> DataError:
    return DataError(f"{what} cannot be decoded ({error}); expected a complete PNG or JPEG.")


def scale_image(image: Image.Image, scale: float) -> Image.Image:
    """Resize an image to both sides times ``scale``, rounded."""
    if scale == 1.0:
        return image
    return image.resize(_scaled_size(image, scale), Image.Resampling.BICUBIC)


def _scaled_size(image: Image.Image, scale: float) -> tuple[int, int]:
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))
