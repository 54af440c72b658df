"""Digests: canonical JSON, fingerprints of stages, sha256 of files, and JSON records that carry their own sha256."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mirage_core.errors import InputError
from mirage_core.json_values import read_json

OWN_SHA256 = "own_sha256"
SETTLED_NS = 2_000_000_000


def canonical_json(value: Any) -> bytes:
    """Encode a JSON value in one way only: sorted keys, no spaces, UTF-8; InputError for anything that is not JSON."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"expected a JSON value, got one that is not ({error}): {value!r:.200}") from error


def fingerprint(stage: str, version: int, settings: Any, inputs: Mapping[str, str]) -> str:
    """The sha256 (hex) over all that a stage's result depends on: name, version, settings (JSON), input digests."""
    identity = {"stage": stage, "version": version, "settings": settings, "inputs": dict(inputs)}
    return hashlib.sha256(canonical_json(identity)).hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class DigestMemory:
    """Caches the digests of unchanged files (same inode, time and size) in this process."""

    def __init__(self) -> None:
        self._digests: dict[tuple[str, int, int, int], str] = {}
        self._lock = threading.Lock()

    def sha256(self, path: Path) -> str:
        """The file's sha256; the file is read only if it is new or has changed."""
        status = path.stat()
        key = (str(path), status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            digest = self._digests.get(key)
        if digest is None:
            digest = file_sha256(path)
            # A file written just now could change again within one tick of the clock: it is not cached yet.
            if time.time_ns() - status.st_mtime_ns > SETTLED_NS:
                with self._lock:
                    self._digests[key] = digest
        return digest


def dump_checked(value: Mapping[str, Any], *, allow_nan: bool = True) -> bytes:
    """Encode a record as indented JSON, UTF-8; its last entry is the sha256 of the same text without that entry."""
    plain = _text(value, allow_nan)
    return _text({**value, OWN_SHA256: hashlib.sha256(plain).hexdigest()}, allow_nan)


def load_checked(data: bytes) -> dict[str, Any]:
    """Decode a record; ValueError if it is not a JSON object, or not what was written.

    A record without its own sha256 was written by an earlier version (or by hand) and is accepted.
    """
    value = read_json(data)
    if not isinstance(value, dict):
        raise ValueError(f"got {type(value).__name__}, expected an object")
    if OWN_SHA256 not in value:
        _check_misnamed_digest(value)
    elif value.pop(OWN_SHA256) is None or dump_checked(value) != data:
        raise ValueError(f"its content does not have the sha256 recorded under {OWN_SHA256}")
    return value


def _check_misnamed_digest(value: Mapping[str, Any]) -> None:
    """Raise ValueError if the last entry is the sha256 of the others: then its name is what is damaged."""
    for last in list(value)[-1:]:
        rest = {key: item for key, item in value.items() if key != last}
        if value[last] == hashlib.sha256(_text(rest, allow_nan=True)).hexdigest():
            raise ValueError(f"its sha256 is recorded under {last!r}, expected {OWN_SHA256}")


def _text(value: Mapping[str, Any], allow_nan: bool) -> bytes:
    return json.dumps(dict(value), indent=1, ensure_ascii=False, allow_nan=allow_nan).encode() + b"\n"
