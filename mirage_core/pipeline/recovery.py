"""Retries without an orchestrator: of work after transient errors, and of the pipeline after lost artifacts."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from mirage_core.errors import ArtifactDamaged, ArtifactMissing, MirageError

Result = TypeVar("Result")

DELAYS_S: tuple[float, ...] = (5, 10, 20, 40, 80)
"""Before the second attempt, the third, ...: a store that is unavailable for a minute or two is waited for."""
JITTER = 0.5
"""A delay is up to this share longer, so that many runs do not retry at the same moment."""
MAX_RERUNS = 3
"""How often one artifact may be lost in a run: what is damaged again and again has a cause of its own."""


def retry_transient(
    work: Callable[[], Result],
    log: Callable[[str], None],
    *,
    delays: Sequence[float] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """Return the result of ``work``, retried after transient MirageErrors; the last one is raised."""
    for delay in DELAYS_S if delays is None else delays:
        try:
            return work()
        except MirageError as error:
            if not error.transient:
                raise
            wait = delay * (1 + random.uniform(0, JITTER))
            log(f"{type(error).__name__}: {str(error).splitlines()[0]} -- tried again in {wait:.0f} s")
            sleep(wait)
    return work()


def rerun_on_lost_artifact(pipeline: Callable[[], Result], log: Callable[[str], None]) -> Result:
    """Run the pipeline; when an input artifact is missing or damaged, rerun it, up to MAX_RERUNS losses of one."""
    lost: Counter[str] = Counter()
    while True:
        try:
            return pipeline()
        except (ArtifactDamaged, ArtifactMissing) as error:
            lost.update(error.lost or ("",))
            if max(lost.values()) >= MAX_RERUNS:
                raise
            log(f"{error} -- the pipeline runs again from its start: only the stages of what was lost run again")
