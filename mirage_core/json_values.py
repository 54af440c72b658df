"""JSON from outside: what Python's reader takes beyond JSON, or fails on by another error, is a ValueError here."""

from __future__ import annotations

import json
from typing import Any


def read_json(text: str | bytes) -> Any:
    """Decode a JSON text, bytes in UTF-8. ValueError for what is none, is nested too deeply, or holds what is no text.

    Halves of surrogate pairs can be written in JSON ("\\ud800"), but are no characters: no file takes them.
    """
    decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    try:
        value = json.loads(decoded)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    refuse_halves(value, decoded)
    return value


def refuse_halves(value: Any, text: str) -> None:
    """Raise ValueError where a value, decoded from ``text``, holds half of a surrogate pair."""
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text in it holds half of a surrogate pair (\\ud800 to \\udfff)") from None
