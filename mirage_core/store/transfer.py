"""File transfers: several at once to a remote backend, existing files skipped, with progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from mirage_core.store.backends.base import Backend
from mirage_core.store.manifest import FileEntry
from mirage_core.types import Progress, ProgressEvent

FILES_AT_ONCE = 4
REPORT_BYTES = 64 * 2**20
REPORT_TIMES = 10
POLL_S = 0.2

Sources = Mapping[tuple[str, int], str]
"""Files of the backend that may be copied instead of uploaded: their keys by (sha256, size)."""


class TransferProgress:
    """Counts bytes from any thread and reports them from its owner's: every tenth, but at least 64 MiB apart."""

    def __init__(self, action: str, total: int, progress: Progress | None) -> None:
        self._action, self._total, self._progress = action, total, progress
        self._interval = max(REPORT_BYTES, total / REPORT_TIMES)
        self._next = self._interval
        self._done = 0
        self._lock = threading.Lock()

    def count(self, size: int) -> None:
        """Add transferred bytes."""
        with self._lock:
            self._done += size

    def report(self) -> None:
        """Call the progress callback if another tenth is done; only the thread that owns the transfer may call this."""
        done = min(self._done, self._total)
        if self._progress is None or done < self._next:
            return
        self._next = (done // self._interval + 1) * self._interval
        metrics = {"bytes": float(done), "of_bytes": float(self._total)}
        message = f"{self._action}: {_megabytes(done)} of {_megabytes(self._total)} MB"
        self._progress(ProgressEvent(stage="store", message=message, metrics=metrics))


def upload(
    backend: Backend,
    folder: Path,
    files: Iterable[FileEntry],
    prefix: str,
    sizes: Mapping[str, int],
    transferred: TransferProgress,
    sources: Sources | None = None,
) -> None:
    """Upload a folder's files below ``prefix``; files already there with that content, or copied there, are not sent.

    ``sizes``: of the files below ``prefix``. Content is compared by reading a local file, or by the sha256 recorded
    with an object on S3.
    """

    def send(entry: FileEntry) -> None:
        key = f"{prefix}/{entry.name}"
        present = sizes.get(entry.name) == entry.size and backend.has_content(key, entry.sha256)
        if present or _copied(backend, (sources or {}).get((entry.sha256, entry.size)), key, entry):
            transferred.count(entry.size)
        else:
            backend.put(folder / entry.name, key, entry.sha256, transferred.count)

    for_each_file(backend, files, send, transferred)


def for_each_file(
    backend: Backend, files: Iterable[FileEntry], work: Callable[[FileEntry], None], transferred: TransferProgress
) -> None:
    """Call ``work`` for every file: one by one for a local backend, several at once for a remote one."""
    if backend.local("") is not None:
        for entry in files:
            work(entry)
            transferred.report()
        return
    pool = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="mirage-store")
    try:
        _wait_for_all({pool.submit(work, entry) for entry in files}, transferred)
    except Exception:
        pool.shutdown(cancel_futures=True)  # no transfer continues while the caller handles the error
        raise
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)  # interrupted: return at once
        raise
    pool.shutdown()


def _wait_for_all(running: set[Future[None]], transferred: TransferProgress) -> None:
    """Wait for all futures, reporting meanwhile; raise the first error."""
    while running:
        done, running = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()
        transferred.report()


def _copied(backend: Backend, source: str | None, key: str, entry: FileEntry) -> bool:
    """Copy a file from one of the same content, checked first so that damage does not spread; whether it was copied."""
    if source is None or not backend.has_content(source, entry.sha256):
        return False
    with suppress(FileNotFoundError):
        backend.copy(source, key, entry.sha256)
        return True
    return False


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f}"
