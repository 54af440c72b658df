"""Where stages work: folders that go when the work ends, also when its process was killed, and kept scratch."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "mirage-"
_LOCK = ".in-use"


@contextmanager
def work_folder(name: str) -> Iterator[Path]:
    """An empty folder for one piece of work, removed afterwards; those that killed processes left go first."""
    sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{name}-") as made:
        folder = Path(made)
        with (folder / f"{_LOCK}.new").open("w") as lock:
            # Held for as long as this process lives, however it ends: so others know whether somebody works here.
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.replace(folder / f"{_LOCK}.new", folder / _LOCK)  # nobody sees it before it is locked
            yield folder


def sweep(parent: Path) -> list[Path]:
    """Remove the work folders in ``parent`` whose process is gone; returns what was removed."""
    removed = []
    for file in parent.glob(f"{PREFIX}*/{_LOCK}"):
        try:
            with file.open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(file.parent, ignore_errors=True)
                removed.append(file.parent)
        except OSError:  # in use, somebody else's, or gone meanwhile
            continue
    return removed


@contextmanager
def kept_scratch(folder: Path) -> Iterator[Path]:
    """A folder that stays when the work fails and goes when it is done; another one while somebody else works in it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")) as mine:
        if not mine:
            with tempfile.TemporaryDirectory(prefix="mirage-scratch-") as other:
                yield Path(other)
            return
        folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


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
