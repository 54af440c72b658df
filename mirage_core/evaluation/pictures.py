"""Which instances share a picture: they are no independent observations, whatever is asked of them.

Several questions on one picture (option orders, rotations, facts about a scene) have correlated answers and equal
states. Folds, resamples, shuffles and donors therefore go by unit: instances that share a picture, directly or
through others, are one unit. Legend: N instances, U units.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mirage_core.types import Problem

Units = NDArray[np.int64]
"""The unit of each instance [N], numbered from 0 in the order of their first instances."""


def picture_units(problems: Sequence[Problem]) -> Units:
    """The units of problems: those with an equal image file or an equal map are in one, also through a third problem.

    A problem without an image and a map is a unit of its own.
    """
    parents = list(range(len(problems)))
    first: dict[str, int] = {}
    for at, problem in enumerate(problems):
        for key in _contents(problem):
            earlier, later = sorted((_root(parents, first.setdefault(key, at)), _root(parents, at)))
            parents[later] = earlier
    roots = [_root(parents, at) for at in range(len(problems))]
    return numbered(roots)


def numbered(units: Sequence[int]) -> Units:
    """Units numbered anew, in the order of their first instances."""
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    return np.array([numbers[unit] for unit in units], dtype=np.int64)


def has_shared(units: Units | None) -> bool:
    """Whether any two instances are of one unit; False for None."""
    return units is not None and len(units) > 0 and int(units.max()) + 1 < len(units)


def subset(units: Units | None, chosen: Sequence[int] | NDArray[np.int64]) -> Units | None:
    """The units of chosen instances; None for None."""
    return None if units is None else numbered(units[np.asarray(chosen, dtype=np.int64)].tolist())


def exchangeable(groups: Sequence[str], units: Units) -> list[NDArray[np.int64]]:
    """The instances [u, m] of units that may be exchanged: u units of m instances in the same groups."""
    of_unit: dict[int, list[int]] = {}
    for at in sorted(range(len(groups)), key=lambda at: (groups[at], at)):
        of_unit.setdefault(int(units[at]), []).append(at)
    alike: dict[tuple[str, ...], list[list[int]]] = {}
    for unit in sorted(of_unit):
        alike.setdefault(tuple(groups[at] for at in of_unit[unit]), []).append(of_unit[unit])
    return [np.array(alike[key], dtype=np.int64) for key in sorted(alike)]


def exchanged(blocks: Sequence[NDArray[np.int64]], generator: np.random.Generator) -> NDArray[np.int64]:
    """A random order [N] of all instances in which whole units of ``exchangeable`` change places."""
    order = np.arange(sum(block.size for block in blocks))
    for members in blocks:
        order[members] = members[generator.permutation(len(members))]
    return order


def _contents(problem: Problem) -> list[str]:
    contents = [hashlib.sha256(image).hexdigest() for image in problem.images if image]
    return [*contents, json.dumps(problem.facts["map"])] if "map" in problem.facts else contents


def _root(parents: list[int], at: int) -> int:
    """The first instance of a unit; shortens the way to it."""
    while parents[at] != at:
        parents[at] = parents[parents[at]]
        at = parents[at]
    return at
