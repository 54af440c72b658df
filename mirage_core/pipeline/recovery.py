"""Patience with transient faults: the same work again after a growing, random wait. Prefect does it for its tasks."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from mirage_core.errors import ArtifactDamaged, ArtifactMissing, MirageError

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
        except MirageError as error:
            if not error.transient:
                raise
            wait = delay * (1 + random.uniform(0, JITTER))
            say(f"{type(error).__name__}: {str(error).splitlines()[0]} -- tried again in {wait:.0f} s")
            sleep(wait)
    return work()


Walked = TypeVar("Walked")

WALKS = 3
"""How often one artifact may be found damaged in a run: what is damaged again and again has a cause of its own."""


def healed(walk: Callable[[], Walked], say: Callable[[str], None]) -> Walked:
    """What ``walk`` gives; taken again where an input was lost, until one artifact was lost ``WALKS`` times."""
    lost: Counter[str] = Counter()
    while True:
        try:
            return walk()
        except (ArtifactDamaged, ArtifactMissing) as error:
            lost.update(error.lost or ("",))
            if max(lost.values()) >= WALKS:
                raise
            say(f"{error} -- the road is walked again from its start: only the stages of what was lost run again")
