"""Chat messages with images, in the format of OpenAI-compatible endpoints."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from mirage_core.errors import DataError
from mirage_core.image_files import shown_bytes

Message = Mapping[str, Any]
IMAGE = "<image>"


def text_part(text: str) -> Message:
    """Return a text part of a message."""
    return {"type": "text", "text": text}


def image_part(image: bytes, problem_id: str) -> Message:
    """Return an image part of a message; DataError as in ``data_url``."""
    return {"type": "image_url", "image_url": {"url": data_url(image, problem_id)}}


def data_url(image: bytes, problem_id: str) -> str:
    """Return an encoded image as a data URL, as the models of this project see it; DataError for what is no image."""
    try:
        shown = shown_bytes(image, "it")
    except DataError as error:
        raise DataError(f"problem {problem_id}: an image is neither PNG, JPEG nor WebP: {error}") from error
    name = "png" if shown.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{name};base64,{base64.b64encode(shown).decode('ascii')}"
