"""Identity: one sha256 over what changes a result, and over nothing else."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mirage_core.errors import InputError

SETTLED_NS = 2_000_000_000


def canonical_json(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted keys, no spaces, UTF-8; InputError for anything that is not JSON."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"expected a JSON value, got one that is not ({error}): {value!r:.200}") from error
    return text.encode()


def fingerprint(stage: str, version: int, settings: Any, inputs: Mapping[str, str]) -> str:
    """What a stage's result depends on, as a sha256 in hex: its name, version, settings (JSON) and input digests."""
    identity = {"stage": stage, "version": version, "settings": settings, "inputs": dict(inputs)}
    return hashlib.sha256(canonical_json(identity)).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class DigestMemory:
    """Remembers the digests of files that have not changed since (same inode, time and size), in this process."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int, int], str] = {}
        self._lock = threading.Lock()

    def sha256(self, path: Path) -> str:
        """The file's sha256, read from the disk only when the file is new or has changed."""
        status = path.stat()
        key = (str(path), status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            known = self._known.get(key)
        if known is None:
            known = file_sha256(path)
            # A file written a moment ago could change again within one tick of the clock: not remembered yet.
            if time.time_ns() - status.st_mtime_ns > SETTLED_NS:
                with self._lock:
                    self._known[key] = known
        return known


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
