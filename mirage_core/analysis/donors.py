"""Who lends latents to whom: exchanges within strata of instances whose latents stand at the same positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Partners = NDArray[np.int64]
"""The index of each instance's donor [N]; -1 where it has none."""

NOBODY = -1


def derangement(strata: Sequence[Any], seed: int) -> Partners:
    """Everyone gives to one other of its stratum and takes from one: a permutation without a fixed point.

    A stratum of one has no donor. The donors of all are drawn by ``seed`` alone.
    """
    partners = np.full(len(strata), NOBODY, dtype=np.int64)
    generator = np.random.default_rng(seed)
    for members in _members(strata):
        if len(members) < 2:
            continue
        drawn = generator.permutation(members)
        partners[drawn] = np.roll(drawn, 1)  # one cycle through the stratum
    return partners


def donors(strata: Sequence[Any], suits: Callable[[int, int], bool], seed: int) -> Partners:
    """A donor of the same stratum for each instance, drawn among those that ``suits(receiver, donor)``; else nobody."""
    partners = np.full(len(strata), NOBODY, dtype=np.int64)
    generator = np.random.default_rng(seed)
    for members in _members(strata):
        for receiver in members:
            candidates = (int(donor) for donor in generator.permutation(members) if donor != receiver)
            partners[receiver] = next((donor for donor in candidates if suits(int(receiver), donor)), NOBODY)
    return partners


def inverse(partners: Partners) -> Partners:
    """Who takes from each instance, of a permutation with gaps [N]."""
    taken = np.full(len(partners), NOBODY, dtype=np.int64)
    known = np.flatnonzero(partners != NOBODY)
    taken[partners[known]] = known
    return taken


def spread_evenly(strata: Sequence[Any], wanted: int, seed: int) -> list[int]:
    """Indices of ``wanted`` things, in their order, as evenly over the strata as they go; all where there are fewer."""
    generator = np.random.default_rng(seed)
    queues = [list(generator.permutation(members)) for members in _members(strata)]
    chosen: list[int] = []
    while len(chosen) < wanted and any(queues):
        for queue in queues:
            if queue and len(chosen) < wanted:
                chosen.append(int(queue.pop(0)))
    return sorted(chosen)


def _members(strata: Sequence[Any]) -> list[NDArray[np.int64]]:
    """The indices of every stratum, strata in the order in which they first come."""
    found: dict[Any, list[int]] = {}
    for index, stratum in enumerate(strata):
        found.setdefault(stratum, []).append(index)
    return [np.array(members, dtype=np.int64) for members in found.values()]
