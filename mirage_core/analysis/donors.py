"""Which instance donates its latents to which: assignments within strata whose latents stand at the same positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mirage_core.evaluation.pictures import Units, has_shared

Donors = NDArray[np.int64]
"""The index of each instance's donor [N]; NO_DONOR where it has none."""

NO_DONOR = -1


def derangement(strata: Sequence[Any], seed: int, units: Units | None = None) -> Donors:
    """Permute each stratum without a fixed point: every instance donates to one other and receives from one.

    No instance has a donor of its own unit (``evaluation/pictures.py``). A stratum of one unit has no donors; where one
    unit holds more than half of a stratum, some of its instances have none. All donors are drawn by ``seed`` alone.
    """
    donors = np.full(len(strata), NO_DONOR, dtype=np.int64)
    generator = np.random.default_rng(seed)
    for members in _members(strata):
        if len(members) < 2:
            continue
        drawn = generator.permutation(members)
        if units is not None and has_shared(units):
            recipients, givers = _across_units(drawn, units[drawn])
            donors[recipients] = givers
        else:
            donors[drawn] = np.roll(drawn, 1)  # one cycle through the stratum
    return donors


def _across_units(members: Donors, units: Units) -> tuple[Donors, Donors]:
    """Pair members with others of other units, one to one: unit after unit, moved on by the size of the largest."""
    sizes = np.bincount(units)
    largest = int(sizes.argmax())
    excess = max(0, 2 * int(sizes[largest]) - len(members))
    spare = np.flatnonzero(units == largest)[:excess]
    kept, kept_units = np.delete(members, spare), np.delete(units, spare)
    ordered = kept[np.argsort(kept_units, kind="stable")]
    return ordered, np.roll(ordered, int(np.bincount(kept_units, minlength=1).max()))


def assign_donors(
    strata: Sequence[Any], is_suitable: Callable[[int, int], bool], seed: int, units: Units | None = None
) -> Donors:
    """Draw each instance a donor of its stratum for which ``is_suitable(recipient, donor)`` holds; else NO_DONOR.

    A donor is never of the recipient's own unit.
    """
    of_instance = np.arange(len(strata)) if units is None else units
    donors = np.full(len(strata), NO_DONOR, dtype=np.int64)
    generator = np.random.default_rng(seed)
    for members in _members(strata):
        for recipient in members:
            others = (int(donor) for donor in generator.permutation(members))
            candidates = (donor for donor in others if of_instance[donor] != of_instance[recipient])
            donors[recipient] = next((donor for donor in candidates if is_suitable(int(recipient), donor)), NO_DONOR)
    return donors


def recipients_of(donors: Donors) -> Donors:
    """The recipient of each instance [N], NO_DONOR where it has none: the inverse of a ``derangement``."""
    recipients = np.full(len(donors), NO_DONOR, dtype=np.int64)
    assigned = np.flatnonzero(donors != NO_DONOR)
    recipients[donors[assigned]] = assigned
    return recipients


def stratified_sample(strata: Sequence[Any], count: int, seed: int) -> list[int]:
    """Sorted indices of ``count`` instances, spread over the strata as evenly as possible; all if there are fewer."""
    generator = np.random.default_rng(seed)
    queues = [list(generator.permutation(members)) for members in _members(strata)]
    chosen: list[int] = []
    while len(chosen) < count and any(queues):
        for queue in queues:
            if queue and len(chosen) < count:
                chosen.append(int(queue.pop(0)))
    return sorted(chosen)


def _members(strata: Sequence[Any]) -> list[NDArray[np.int64]]:
    """The indices of every stratum, strata in order of first appearance."""
    members: dict[Any, list[int]] = {}
    for index, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(index)
    return [np.array(indices, dtype=np.int64) for indices in members.values()]
