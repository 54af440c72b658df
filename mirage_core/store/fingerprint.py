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
    except (TypeError, ValueError) as problem:
        raise InputError(f"expected a JSON value, got one that is not ({problem}): {value!r:.200}") from problem
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
