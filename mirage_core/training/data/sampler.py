"""Which examples a step takes, and which process computes them: functions of seed and step alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mirage_core.errors import InputError

WINDOW = 50
"""Batches whose examples are sorted by length together: enough for little padding, few enough for chance."""


@dataclass(frozen=True)
class Portion:
    """The examples of one micro-batch. A ``filler`` only keeps its process in step and must not count."""

    indices: tuple[int, ...]
    filler: bool = False


class EpochOrder:
    """Batches over ``size`` examples, epoch after epoch, each epoch in a new order; batches run across epochs.

    ``kinds`` [size]: examples of one kind share batches as far as they go (those of a size need no padding).
    ``lengths`` [size]: batches hold examples of like length, out of windows of as many as WINDOW batches take at most.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        kinds: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> None:
        if size < 1:
            raise InputError("got no training example, expected at least one: look at the examples artifact")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._alike = None if kinds is None and lengths is None else np.asarray(lengths if kinds is None else kinds)
        # Four windows at least: where there is but one, an example would have the same neighbours in every epoch.
        self._window = size if lengths is None else batch_size * max(1, min(WINDOW, size // (4 * batch_size)))
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> tuple[int, ...]:
        """Indices of the examples of ``step`` (from 0)."""
        first = step * self.batch_size
        return tuple(self._at(position) for position in range(first, first + self.batch_size))

    def used(self, steps: int) -> tuple[int, ...]:
        """Every index that the first ``steps`` batches take, ascending."""
        if steps * self.batch_size >= self.size:
            return tuple(range(self.size))
        return tuple(sorted(index for step in range(steps) for index in self.batch(step)))

    def _at(self, position: int) -> int:
        epoch, offset = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._drawn(epoch)
        return int(self._order[offset])

    def _drawn(self, epoch: int) -> NDArray[np.int64]:
        """The order of an epoch: by chance; where some are alike, those side by side and their batches by chance."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.size)
        if self._alike is None:
            return order
        begun = min(-epoch * self.size % self.batch_size, self.size)  # they complete the last batch of the epoch before
        body = self._side_by_side(order[begun:], self._alike)
        whole = len(body) // self.batch_size
        batches = body[: whole * self.batch_size].reshape(whole, self.batch_size)
        return np.concatenate([order[:begun], rng.permutation(batches).ravel(), body[whole * self.batch_size :]])

    def _side_by_side(self, order: NDArray[np.int64], alike: NDArray[np.int64]) -> NDArray[np.int64]:
        """Window by window, from low to high."""
        windows = [order[first : first + self._window] for first in range(0, len(order), self._window)]
        return np.concatenate([order[:0], *(part[np.argsort(alike[part], kind="stable")] for part in windows)])


class Batches(Protocol):
    """Which examples a step takes."""

    def batch(self, step: int) -> tuple[int, ...]:
        """Indices of the examples of ``step`` (from 0)."""


@dataclass(frozen=True)
class SameBatch:
    """The same batch in every step."""

    indices: tuple[int, ...]

    def batch(self, step: int) -> tuple[int, ...]:  # noqa: ARG002 -- the same in every step
        """Its indices."""
        return self.indices


def steps_of(steps: int | None, epochs: float, size: int, batch_size: int) -> int:
    """The number of optimizer steps: as given, else what ``epochs`` passes over ``size`` examples take."""
    return steps if steps is not None else max(1, math.ceil(epochs * size / batch_size))


def deal(
    indices: Sequence[int], rank: int, world_size: int, micro_batch_size: int | None, *, neighbours: bool = False
) -> list[Portion]:
    """The micro-batches of process ``rank``: all processes get the same number of them.

    ``micro_batch_size`` None: one micro-batch. A process with too few examples for a micro-batch computes
    one of the batch again as a filler. ``neighbours``: a micro-batch takes examples that follow each other among the
    process's own (of like length, where the indices are in that order), instead of every so many.
    """
    largest = math.ceil(len(indices) / world_size)
    number = 1 if micro_batch_size is None else math.ceil(largest / micro_batch_size)
    mine = list(indices[rank::world_size])
    if neighbours:
        cuts = [len(mine) * part // number for part in range(number + 1)]
        return [_portion(mine[begin:end], indices[0]) for begin, end in pairwise(cuts)]
    return [_portion(mine[part::number], indices[0]) for part in range(number)]


def _portion(indices: Sequence[int], stand_in: int) -> Portion:
    """A micro-batch of these examples; of a stand-in, as a filler, where there are none."""
    return Portion(tuple(indices)) if indices else Portion((stand_in,), filler=True)
