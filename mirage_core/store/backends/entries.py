"""What a place tells of what lies in it: files with size and time, and writes that were never finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

TEMPORARY = ".tmp"
RESULTS = "results"
"""Where the orchestration keeps what it says of finished stages; records of it refer to nothing that must stay."""

Told = Callable[[int], None]
"""Is told the bytes that have just travelled; may be called from another thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file: bytes, and when it was written last (seconds since 1970, by the clock of the place)."""

    size: int
    modified: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A write that has not ended: a temporary file, or a multi-part upload (``upload`` is its id).

    ``since`` is when something of it was written last.
    """

    key: str
    size: int
    since: float
    upload: str | None = None
