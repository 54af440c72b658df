"""Where stages work: folders that go when the work ends, also when its process was killed, and kept scratch."""

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
    """An empty folder for one piece of work, removed afterwards; those that killed processes left go first.

    Its lock lies beside it from before it is made until after it is gone: so others know whether somebody works
    there, and a process that is killed while it clears up leaves nothing that is not found.
    """
    parent = Path(tempfile.gettempdir())
    sweep(parent)
    while True:
        folder = parent / f"{PREFIX}{name}-{secrets.token_hex(4)}"
        with _locked(_lock_of(folder)) as mine:
            if not mine:
                continue  # somebody looked in this moment whether it is in use
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
        with suppress(OSError), file.open("r") as lock:  # in use, somebody else's, or gone meanwhile
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder = file.with_name(file.name.removesuffix(_LOCK))
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():  # else its last rank is just ending: next time
                file.unlink()
                removed.append(folder)
    return removed


@contextmanager
def kept_scratch(folder: Path) -> Iterator[Path]:
    """A folder that stays when the work fails and goes when it is done; another one while somebody else works in it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(_lock_of(folder)) as mine:
        if not mine:
            with tempfile.TemporaryDirectory(prefix="mirage-scratch-") as other:
                yield Path(other)
            return
        folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def drop_scratch(folder: Path) -> None:
    """Remove what a killed process has left in a kept scratch whose work is done; nothing where somebody is in it."""
    if folder.exists() or _lock_of(folder).exists():
        with kept_scratch(folder):
            pass


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + _LOCK)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a lock file, which is gone afterwards; False where somebody else holds it."""
    while True:
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            if not _is_still(path, lock.fileno()):
                continue  # who held it has removed it since it was opened
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
