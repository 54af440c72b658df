"""Healing: a walk that ran into a damaged or missing artifact is taken again from the top.

What is damaged counts as absent then, so its stage runs again, and after it only what its changed digest touches;
every other stage is Cached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from mirage_core.errors import ArtifactDamaged, ArtifactMissing

Walked = TypeVar("Walked")

WALKS = 3
"""How often one artifact may be found damaged in a run: what is damaged again and again has a cause of its own."""


def healed(walk: Callable[[], Walked], say: Callable[[str], None]) -> Walked:
    """What ``walk`` gives; taken again where an input was lost, until one artifact was lost ``WALKS`` times."""
    lost: Counter[str] = Counter()
    while True:
        try:
            return walk()
        except (ArtifactDamaged, ArtifactMissing) as problem:
            lost.update(problem.lost or ("",))
            if max(lost.values()) >= WALKS:
                raise
            say(f"{problem} -- the road is walked again from its start: only the stages of what was lost run again")
