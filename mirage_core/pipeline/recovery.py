"""Retries without an orchestrator: of work after transient errors, and of the pipeline after lost artifacts."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from mirage_core.attempts import Attempt, attempts
from mirage_core.errors import ArtifactDamaged, ArtifactMissing, MirageError

DELAYS_S: tuple[float, ...] = (5, 10, 20, 40, 80)
"""Before the second attempt, the third, ...: a store that is unavailable for a minute or two is waited for."""
JITTER = 0.5
"""A delay is up to this share longer, so that many runs do not retry at the same moment."""
MAX_RERUNS = 3
"""How often one artifact may be lost in a run: what is damaged again and again has a cause of its own."""


def transient_retries(
    log: Callable[[str], None], *, delays: Sequence[float] | None = None, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Attempt]:
    """Yield attempts, with growing delays between them, while their MirageErrors are transient."""
    remaining = list(DELAYS_S if delays is None else delays)

    def wait_for_next(error: MirageError) -> bool:
        if not error.transient or not remaining:
            return False
        wait = remaining.pop(0) * (1 + random.uniform(0, JITTER))
        log(f"{type(error).__name__}: {str(error).splitlines()[0]} -- tried again in {wait:.0f} s")
        sleep(wait)
        return True

    return attempts(wait_for_next)


def reruns_on_lost_artifact(log: Callable[[str], None]) -> Iterator[Attempt]:
    """Yield attempts at a pipeline while its input artifacts are missing or damaged, up to MAX_RERUNS losses of one."""
    lost: Counter[str] = Counter()

    def is_new_loss(error: MirageError) -> bool:
        if not isinstance(error, ArtifactDamaged | ArtifactMissing):
            return False
        lost.update(error.lost or ("",))
        if max(lost.values()) >= MAX_RERUNS:
            return False
        log(f"{error} -- the pipeline runs again from its start: only the stages of what was lost run again")
        return True

    return attempts(is_new_loss)
