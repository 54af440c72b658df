"""Being asked to end (SIGTERM) between two steps: heard in one process, agreed on by all, told to the parent."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INTERRUPTED = "interrupted"
"""The figure by which the processes agree: how many of them were asked to end."""
_FILE = "interrupt"


class Asked:
    """Whether this process was asked to end."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def __bool__(self) -> bool:
        return self._asked.is_set()

    def ask(self) -> None:
        """Ask it to end."""
        self._asked.set()


@contextmanager
def hearing_sigterm() -> Iterator[Asked]:
    """Inside the block SIGTERM only sets what is given; outside of the main thread nothing is heard."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.ask())  # noqa: ARG005
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def interrupt_file(folder: Path) -> Path:
    """The file by which a parent asks the processes of a job to end, on this host and on others."""
    return folder / _FILE
