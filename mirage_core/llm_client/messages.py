"""Chat messages with images, in the format of OpenAI-compatible endpoints."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from mirage_core.errors import DataError

Message = Mapping[str, Any]
IMAGE = "<image>"
_FORMATS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}


def text_part(text: str) -> Message:
    """Return a text part of a message."""
    return {"type": "text", "text": text}


def image_part(image: bytes, problem_id: str) -> Message:
    """Return an image part of a message; DataError as in ``data_url``."""
    return {"type": "image_url", "image_url": {"url": data_url(image, problem_id)}}


def data_url(image: bytes, problem_id: str) -> str:
    """Return an encoded image as a data URL; DataError for what is neither PNG, JPEG nor WebP."""
    name = next((name for start, name in _FORMATS.items() if image.startswith(start)), None)
    if name is None:
        raise DataError(f"problem {problem_id}: an image is neither PNG, JPEG nor WebP; convert it first")
    return f"data:image/{name};base64,{base64.b64encode(image).decode('ascii')}"
