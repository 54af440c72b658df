"""The head of every measure's record: on what it was taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mirage_core.analysis.result import Header
from mirage_core.types import Problem


def header(
    measure: str,
    problems: Sequence[Problem],
    used: NDArray[np.int64],
    *,
    num_latents: int,
    seed: int,
    notes: Sequence[str] = (),
) -> Header:
    """The head of a measure that could use the instances ``used`` [n] of ``problems`` [N]."""
    groups = Counter(f"{problems[at].benchmark}/{problems[at].group}" for at in used.tolist())
    return Header(
        measure=measure,
        instances=len(problems),
        used=len(used),
        num_latents=num_latents,
        seed=seed,
        groups=dict(sorted(groups.items())),
        notes=tuple(notes),
    )


def without_span(instances: int, used: int) -> list[str]:
    """The note on instances that a measure of latents had to leave out."""
    if used == instances:
        return []
    return [f"{instances - used} of {instances} answers have no whole latent span and are left out."]
