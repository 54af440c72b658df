"""Rows that do not fit: the first stops a loader, unless all of them are collected, as ``mirage data probe`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from mirage_core.errors import DataError

R = TypeVar("R")
T = TypeVar("T")
_COLLECTED: ContextVar[list[str] | None] = ContextVar("collected_faults", default=None)


@contextmanager
def collected_faults() -> Iterator[list[str]]:
    """Within this context loaders leave out rows that do not fit and note why in the list, one text a row."""
    faults: list[str] = []
    token = _COLLECTED.set(faults)
    try:
        yield faults
    finally:
        _COLLECTED.reset(token)


def converted(rows: Iterable[R], convert: Callable[[R], T]) -> Iterator[T]:
    """Yield what ``convert`` makes of each row; its DataError is raised, or noted where faults are collected."""
    for row in rows:
        try:
            value = convert(row)
        except DataError as error:
            faults = _COLLECTED.get()
            if faults is None:
                raise
            faults.append(str(error))
            continue
        yield value
