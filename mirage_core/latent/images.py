"""Images for the processor: read as RGB, in the prompt's scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from mirage_core.image_files import Background, displayed_size, read_rgb


def open_image(data: bytes, scale: float, what: str, background: Background = "white") -> Image.Image:
    """Open an image as RGB, sides times ``scale``. DataError, naming ``what``, if it is broken or too large."""
    return scale_image(read_rgb(data, what, background), scale)


def image_size(data: bytes, scale: float, what: str) -> tuple[int, int]:
    """Width and height of what ``open_image`` returns, from the header alone. DataError as there."""
    return _scaled(displayed_size(data, what), scale)


def scale_image(image: Image.Image, scale: float) -> Image.Image:
    """Resize an image to both sides times ``scale``, rounded."""
    if scale == 1.0:
        return image
    return image.resize(_scaled(image.size, scale), Image.Resampling.BICUBIC)


def patch_grid(processor: Any, size: tuple[int, int], limits: Mapping[str, int]) -> tuple[int, int]:
    """Rows and columns of the patches that a processor cuts an image of ``size`` (width, height) into, by its rule.

    ``limits``: its min_pixels and max_pixels. ValueError for an image that it refuses.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    side = int(processor.patch_size)
    height, width = smart_resize(size[1], size[0], side * int(processor.merge_size), **limits)
    return height // side, width // side


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
