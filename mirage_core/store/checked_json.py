"""Small JSON records that tell their own sha256, so that damage to any byte of them is noticed on reading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

OWN = "own_sha256"


def dump_checked(value: Mapping[str, Any], *, allow_nan: bool = True) -> bytes:
    """The record as JSON for people, UTF-8; its last entry is the sha256 of the same text without that entry."""
    plain = _text(value, allow_nan)
    return _text({**value, OWN: hashlib.sha256(plain).hexdigest()}, allow_nan)


def load_checked(data: bytes) -> dict[str, Any]:
    """Read a record back; ValueError for what is no JSON object, or not what was written.

    One without a sha256 of its own was written by an earlier version (or by hand) and is taken as it is.
    """
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError(f"got {type(value).__name__}, expected an object")
    if OWN not in value:
        _check_last(value)
    elif value.pop(OWN) is None or dump_checked(value) != data:
        raise ValueError(f"its content does not have the sha256 it tells under {OWN}")
    return value


def _check_last(value: Mapping[str, Any]) -> None:
    """ValueError where the last entry is the sha256 of the others: the damage is in its name."""
    for last in list(value)[-1:]:
        if value[last] == _without(value, last):
            raise ValueError(f"it tells its sha256 under {last!r}, expected {OWN}")


def _without(value: Mapping[str, Any], name: str) -> str:
    """The sha256 of a record without one of its entries."""
    rest = {key: inner for key, inner in value.items() if key != name}
    return hashlib.sha256(_text(rest, allow_nan=True)).hexdigest()


def _text(value: Mapping[str, Any], allow_nan: bool) -> bytes:
    return json.dumps(dict(value), indent=1, ensure_ascii=False, allow_nan=allow_nan).encode() + b"\n"
