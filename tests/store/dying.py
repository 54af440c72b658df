"""A place that dies at its n-th call, before or after the call has done its work: for tests of killed writers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mirage_core.store.backends.base import Place

CALLS = ("read", "write", "create", "take", "put", "get", "copy", "holds", "entries", "sizes", "remove")


class Killed(BaseException):
    """Like SIGKILL: nothing in the code under test catches it."""


@dataclass
class DyingPlace:
    """Passes every call on to ``place``; from the ``at``-th on they raise Killed, the first one after its work is done
    when ``after`` is set."""

    place: Place
    at: int
    after: bool = False
    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self.place, name)
        if name not in CALLS:
            return inner

        def called(*arguments: Any, **options: Any) -> Any:
            self.calls.append(name)
            number = len(self.calls)
            if number < self.at:
                return inner(*arguments, **options)
            if self.after and number == self.at:
                inner(*arguments, **options)
            raise Killed(f"call {number}: {name}")

        return called
