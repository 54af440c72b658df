"""Attempts at some work in a loop, ended by the one that succeeds or whose error is raised.

::

    for attempt in attempts(should_retry):
        with attempt:
            result = work()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType

from mirage_core.errors import MirageError

ShouldRetry = Callable[[MirageError], bool]
"""Decides after an error whether another attempt follows; it may wait, log, or raise an error of its own."""


class Attempt:
    """A context manager around one attempt; it suppresses an error after which another attempt follows."""

    def __init__(self, should_retry: ShouldRetry) -> None:
        self._should_retry = should_retry
        self.succeeded = False

    def __enter__(self) -> None:
        self.succeeded = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.succeeded = error is None
        return isinstance(error, MirageError) and self._should_retry(error)


def attempts(should_retry: ShouldRetry) -> Iterator[Attempt]:
    """Yield attempts until one succeeds; the error that ``should_retry`` refuses is raised, as any other exception."""
    attempt = Attempt(should_retry)
    while not attempt.succeeded:
        yield attempt
