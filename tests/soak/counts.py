"""What a part of the soak counts: how often what was done, and what must be 0."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

CASES_KEPT = 30


class Tally:
    """The counts of one part; ``wrong`` names the counts that must be 0, and their cases are kept in words."""

    def __init__(self, part: str, wrong: Sequence[str]) -> None:
        self.part = part
        self.done: Counter[str] = Counter()
        self.figures: dict[str, Any] = {}
        self.wrong: dict[str, int] = dict.fromkeys(wrong, 0)
        self.cases: list[str] = []
        self._started = time.monotonic()
        self._ended: float | None = None
        self._lock = threading.Lock()

    def count(self, name: str, amount: int = 1) -> None:
        """Note that something was done."""
        with self._lock:
            self.done[name] += amount

    def most(self, name: str, value: float) -> None:
        """Keep the largest value of a figure."""
        with self._lock:
            self.figures[name] = max(self.figures.get(name, value), value)

    def fault(self, name: str, case: str) -> None:
        """Note something that must never happen; ``name`` is one of those the part has promised."""
        with self._lock:
            self.wrong[name] = self.wrong[name] + 1
            if len(self.cases) < CASES_KEPT:
                self.cases.append(f"{name}: {case}")

    def end(self) -> None:
        """The part is over: its time stands still."""
        self._ended = time.monotonic()

    @property
    def good(self) -> bool:
        """Whether everything that must be 0 is."""
        return not any(self.wrong.values())

    def as_json(self) -> dict[str, Any]:
        """The counts for people and programs."""
        return {
            "part": self.part,
            "seconds": round((self._ended or time.monotonic()) - self._started, 1),
            "done": dict(sorted(self.done.items())),
            **({"figures": self.figures} if self.figures else {}),
            "must_be_zero": self.wrong,
            **({"cases": self.cases} if self.cases else {}),
        }
