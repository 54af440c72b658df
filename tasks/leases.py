"""Locked files of the leases that processes on this machine hold: a killed holder is found before its lease ends."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO
from uuid import UUID

_SUFFIX = ".lease"


class LeaseFile:
    """A file with the lease's id, locked as long as this process lives, removed after the block."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{uuid.uuid4().hex}{_SUFFIX}"
        self._file: IO[str] | None = None
        self.lease = UUID(int=0)

    def __enter__(self) -> LeaseFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()

    def write(self, lease: UUID) -> None:
        """Write a lease, replacing the one before."""
        self.lease = lease
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".new")
        file = new.open("w", encoding="ascii")
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(lease))
        file.flush()
        os.replace(new, self._path)  # no other process sees it before it is locked
        if self._file is not None:
            self._file.close()
        self._file = file


def abandoned_leases(folder: Path) -> Iterator[UUID]:
    """Yield the leases whose process is gone, each once."""
    for path in folder.glob(f"*{_SUFFIX}"):
        try:
            with path.open("r", encoding="ascii") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lease = UUID(file.read())
                path.unlink()
        except (OSError, ValueError):  # locked by a living process, or removed meanwhile
            continue
        yield lease
