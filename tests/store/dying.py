"""A backend that dies at its n-th call, before or after the call has done its work: for tests of killed writers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mirage_core.store.backends.base import Backend

CALLS = (
    "read",
    "write",
    "create",
    "delete_if_unchanged",
    "put",
    "get",
    "copy",
    "has_content",
    "entries",
    "sizes",
    "remove",
)


class Killed(BaseException):
    """Like SIGKILL: nothing in the code under test catches it."""


@dataclass
class DyingBackend:
    """Passes every call on to ``backend``; calls from the ``at``-th on raise Killed, the first one after its work is
    done when ``after`` is set."""

    backend: Backend
    at: int
    after: bool = False
    calls: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self.backend, name)
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
