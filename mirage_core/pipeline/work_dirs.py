"""Folders that stages work in: removed when the work ends, also of a killed process; and scratch that persists."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "mirage-"
_LOCK = ".lock"


@contextmanager
def work_folder(name: str) -> Iterator[Path]:
    """An empty folder for one piece of work, removed afterwards; those of killed processes are removed first.

    Its lock file exists from before the folder is created until after it is removed: others know by it whether the
    folder is in use, and a process that is killed while it cleans up leaves nothing that cannot be found.
    """
    parent = Path(tempfile.gettempdir())
    sweep(parent)
    while True:
        folder = parent / f"{PREFIX}{name}-{secrets.token_hex(4)}"
        with _locked(_lock_of(folder)) as locked:
            if not locked:
                continue  # another process is checking whether it is in use
            folder.mkdir(mode=0o700)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


def sweep(parent: Path) -> list[Path]:
    """Remove the work folders in ``parent`` whose process is gone; returns what was removed."""
    removed = []
    for file in parent.glob(f"{PREFIX}*{_LOCK}"):
        with suppress(OSError), file.open("r") as lock:  # in use, of another user, or removed meanwhile
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder = file.with_name(file.name.removesuffix(_LOCK))
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():  # else its last rank is still exiting: next time
                file.unlink()
                removed.append(folder)
    return removed


@contextmanager
def persistent_scratch(folder: Path) -> Iterator[Path]:
    """A folder that stays when the work fails and is removed when it is done; a temporary one while it is in use."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(_lock_of(folder)) as locked:
        if not locked:
            with tempfile.TemporaryDirectory(prefix="mirage-scratch-") as other:
                yield Path(other)
            return
        folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def drop_scratch(folder: Path) -> None:
    """Remove what a killed process left in a persistent scratch folder whose work is done; not while it is in use."""
    if folder.exists() or _lock_of(folder).exists():
        with persistent_scratch(folder):
            pass


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + _LOCK)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock a file, and remove it afterwards; False where another process has the lock."""
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            if not _is_still(path, lock.fileno()):
                continue  # its owner has removed it since it was opened
            try:
                yield True
            finally:
                path.unlink(missing_ok=True)
            return


def _is_still(path: Path, handle: int) -> bool:
    """Whether the path still names the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
