"""Notes on this machine's disk of who holds a lease: a killed holder is known at once, not when its lease ends."""

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


class LeaseNote:
    """A file that holds the lease's id, locked for as long as this process lives, gone after the block."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{uuid.uuid4().hex}{_SUFFIX}"
        self._file: IO[str] | None = None
        self.lease = UUID(int=0)

    def __enter__(self) -> LeaseNote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            self._file.close()

    def write(self, lease: UUID) -> None:
        """Note a lease, in the place of the one before."""
        self.lease = lease
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        file = fresh.open("w", encoding="ascii")
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(lease))
        file.flush()
        os.replace(fresh, self._path)  # nobody sees it before it is locked
        if self._file is not None:
            self._file.close()
        self._file = file


def left_behind(folder: Path) -> Iterator[UUID]:
    """The leases whose process is gone; each is told once."""
    for path in folder.glob(f"*{_SUFFIX}"):
        try:
            with path.open("r", encoding="ascii") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lease = UUID(file.read())
                path.unlink()
        except (OSError, ValueError):  # held by a living process, or gone meanwhile
            continue
        yield lease
