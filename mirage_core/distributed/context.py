"""The current process of a job: its rank in the job and on its host, and whether it has been asked to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class ProcessContext:
    """Which process of a job this is, of how many: in the job, and on its host."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int

    @classmethod
    def on_one_host(cls, rank: int, world_size: int) -> ProcessContext:
        """Return the context of a process whose job runs on a single host."""
        return cls(rank, world_size, rank, world_size)

    @property
    def is_main(self) -> bool:
        """Whether this is process 0, which logs and writes what belongs to no single process."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's items: every ``world_size``-th one, from ``rank`` on."""
        return items[self.rank :: self.world_size]


_current = ProcessContext.on_one_host(0, 1)


def current_process() -> ProcessContext:
    """Return the context of this process; outside a job it is process 0 of 1."""
    return _current


@contextmanager
def as_process(context: ProcessContext) -> Iterator[None]:
    """Make ``context`` the current process inside the block, in all threads."""
    global _current
    before, _current = _current, context
    try:
        yield
    finally:
        _current = before


class StopRequest:
    """Whether this process has been asked to stop."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        """Ask the process to stop."""
        self._event.set()


@contextmanager
def catch_sigterm() -> Iterator[StopRequest]:
    """Let SIGTERM only set the yielded request inside the block; outside the main thread no signal is caught."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: request.set())  # noqa: ARG005
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
