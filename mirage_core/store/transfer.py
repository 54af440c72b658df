"""Files on their way: several at once to a remote place, not again what is there, with progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from mirage_core.store.backends.base import Place
from mirage_core.store.manifest import FileEntry
from mirage_core.types import Progress, ProgressEvent

FILES_AT_ONCE = 4
TOLD_BYTES = 64 * 2**20
TOLD_TIMES = 10
POLL_S = 0.2

Sources = Mapping[tuple[str, int], str]
"""Files of the place that may be copied instead of uploaded: their keys by (sha256, size)."""


class Meter:
    """Counts bytes from any thread and reports them from its owner's: every tenth, and not below 64 MiB."""

    def __init__(self, doing: str, total: int, progress: Progress | None) -> None:
        self._doing, self._total, self._progress = doing, total, progress
        self._each = max(TOLD_BYTES, total / TOLD_TIMES)
        self._next = self._each
        self._done = 0
        self._lock = threading.Lock()

    def count(self, size: int) -> None:
        """Note that so many bytes have travelled."""
        with self._lock:
            self._done += size

    def report(self) -> None:
        """Tell the progress callback, where another tenth is through. To be called by the thread that works."""
        done = min(self._done, self._total)
        if self._progress is None or done < self._next:
            return
        self._next = (done // self._each + 1) * self._each
        figures = {"bytes": float(done), "of_bytes": float(self._total)}
        said = f"{self._doing}: {_megabytes(done)} of {_megabytes(self._total)} MB"
        self._progress(ProgressEvent(stage="store", message=said, metrics=figures))


def upload(
    place: Place,
    folder: Path,
    files: Iterable[FileEntry],
    into: str,
    there: Mapping[str, int],
    meter: Meter,
    sources: Sources | None = None,
) -> None:
    """Bring a folder's files into ``into``; what is there with the right content, or can be copied there, is not sent.

    ``there``: the sizes of what it has. The content of a local file is known by reading it, that of an object on S3
    by the sha256 recorded with it.
    """

    def send(entry: FileEntry) -> None:
        key = f"{into}/{entry.name}"
        present = there.get(entry.name) == entry.size and place.holds(key, entry.sha256)
        if present or _copied(place, (sources or {}).get((entry.sha256, entry.size)), key, entry):
            meter.count(entry.size)
        else:
            place.put(folder / entry.name, key, entry.sha256, meter.count)

    each(place, files, send, meter)


def each(place: Place, files: Iterable[FileEntry], work: Callable[[FileEntry], None], meter: Meter) -> None:
    """Do ``work`` for every file: one after the other for a local place, some at once for a remote one."""
    if place.local("") is not None:
        for entry in files:
            work(entry)
            meter.report()
        return
    pool = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="mirage-store")
    try:
        _watched({pool.submit(work, entry) for entry in files}, meter)
    except Exception:
        pool.shutdown(cancel_futures=True)  # nothing goes on behind the back of who handles the error
        raise
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)  # interrupted: at once
        raise
    pool.shutdown()


def _watched(running: set[Future[None]], meter: Meter) -> None:
    """Wait for all, reporting meanwhile; the first error is raised."""
    while running:
        done, running = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
        meter.report()


def _copied(place: Place, source: str | None, key: str, entry: FileEntry) -> bool:
    """Whether a file could be copied from one of the same content; that is looked at first, so damage stays alone."""
    if source is None or not place.holds(source, entry.sha256):
        return False
    with suppress(FileNotFoundError):
        place.copy(source, key, entry.sha256)
        return True
    return False


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f}"
