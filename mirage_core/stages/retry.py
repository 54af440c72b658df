"""Patience with transient faults: the same work again after a growing, random wait. Prefect does it for its tasks."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from mirage_core.errors import MirageError

Done = TypeVar("Done")

DELAYS_S: tuple[float, ...] = (5, 10, 20, 40, 80)
"""Before the second attempt, the third, ...: a store that is away for a minute or two is waited for."""
JITTER = 0.5
"""A wait is up to this share longer, so that many runs do not come back in the same moment."""


def retried(
    work: Callable[[], Done],
    say: Callable[[str], None],
    *,
    delays: Sequence[float] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Done:
    """What ``work`` gives; tried again after transient MirageErrors only, the last one is raised on."""
    for delay in DELAYS_S if delays is None else delays:
        try:
            return work()
        except MirageError as problem:
            if not problem.transient:
                raise
            wait = delay * (1 + random.uniform(0, JITTER))
            say(f"{type(problem).__name__}: {str(problem).splitlines()[0]} -- tried again in {wait:.0f} s")
            sleep(wait)
    return work()
