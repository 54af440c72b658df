"""What a backend lists: files with their size and time, and writes that were never finished."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

TEMPORARY = ".tmp"
OLD_RESULTS = "results"
"""A folder that earlier versions left in a store (Prefect's result records): never read, listed or collected."""

OnBytes = Callable[[int], None]
"""Called with the number of bytes just transferred, possibly from another thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file: its size in bytes and its last write (seconds since 1970, by the backend's clock)."""

    size: int
    modified: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A write that has not ended: a temporary file, or a multipart upload (``upload`` is its id).

    ``since`` is the time of its last write.
    """

    key: str
    size: int
    since: float
    upload: str | None = None
