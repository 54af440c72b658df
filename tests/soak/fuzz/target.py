"""One parser under hostile input: cases are drawn, read and counted; only the project's own errors may come out."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from mirage_core.errors import MirageError

SLOW_S = 2.0
"""Processor time of one case from which on it counts as a fault."""
MOST_KEPT = 5


@dataclass(frozen=True)
class Target:
    """A parser: ``prepare`` gets a folder of its own and returns how a case is drawn, and how it is read.

    ``count``: the cases of one run of the tests, chosen so that all targets together take about 20 s of one core.
    ``refusal``: what the reader may raise besides the project's errors (an error of its own that its caller handles).
    """

    name: str
    prepare: Callable[[Path], tuple[Callable[[Random], Any], Callable[[Any], object]]]
    count: int = 10_000
    refusal: tuple[type[Exception], ...] = ()


@dataclass
class Tally:
    """What came of the cases of one target."""

    name: str
    cases: int = 0
    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    kept: list[tuple[str, str]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The counts, for people and programs."""
        return {
            "target": self.name,
            "cases": self.cases,
            "read": self.read,
            "refused": dict(self.refused),
            "faults": dict(self.faults),
            "core seconds": round(self.seconds, 1),
            "slowest_s": round(self.slowest_s, 3),
        }


def memory() -> str | None:
    """A folder in main memory, where there is one: files are written by the million."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def run(target: Target, folder: Path, count: int, seed: int, limit_s: float | None = None) -> Tally:
    """Draw and read so many cases, or as many as ``limit_s`` of processor time allows."""
    tally = Tally(target.name)
    draw, read = target.prepare(folder)
    chance, began = Random(f"{seed} {target.name}"), time.process_time()
    while tally.cases < count and (limit_s is None or tally.cases % 256 or time.process_time() - began < limit_s):
        case = draw(chance)
        _count(target, read, case, tally)
    tally.seconds = time.process_time() - began
    return tally


def _count(target: Target, read: Callable[[Any], object], case: Any, tally: Tally) -> None:
    tally.cases += 1
    began = time.process_time()
    try:
        read(case)
        tally.read += 1
    except (MirageError, *target.refusal) as error:
        tally.refused[type(error).__name__] += 1
        _keep_unless_plain(str(error), case, tally)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        own = next((f for f in traceback.extract_tb(error.__traceback__)[::-1] if "mirage_core" in f.filename), where)
        _keep(f"{type(error).__name__} at {Path(own.filename).name}:{own.lineno}", case, repr(error), tally)
    took = time.process_time() - began
    tally.slowest_s = max(tally.slowest_s, took)
    if took > SLOW_S:
        _keep("slow", case, f"{took:.1f} s", tally)


def _keep_unless_plain(message: str, case: Any, tally: Tally) -> None:
    """A message is a text that can be printed, and short."""
    try:
        message.encode()
    except UnicodeEncodeError:
        _keep("message with half of a surrogate pair", case, ascii(message), tally)
    if len(message) > 10_000:
        _keep("message of more than 10,000 characters", case, message[:200], tally)


def _keep(kind: str, case: Any, said: str, tally: Tally) -> None:
    tally.faults[kind] += 1
    if tally.faults[kind] <= MOST_KEPT:
        tally.kept.append((f"{kind}: {said[:300]}", f"{case!r:.1500}"))
