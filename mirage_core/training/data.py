"""Which examples a step takes, and which process computes them: functions of seed and step alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_core.errors import InputError


@dataclass(frozen=True)
class Portion:
    """The examples of one micro-batch. A ``filler`` only keeps its process in step and must not count."""

    indices: tuple[int, ...]
    filler: bool = False


class EpochOrder:
    """Batches over ``size`` examples, epoch after epoch, each epoch in a new order; batches run across epochs.

    ``kinds`` [size]: examples of one kind share batches as far as they go (those of a size need no padding).
    """

    def __init__(self, size: int, batch_size: int, seed: int, kinds: Sequence[int] | None = None) -> None:
        if size < 1:
            raise InputError("got no training example, expected at least one: look at the examples artifact")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._kinds = None if kinds is None else np.asarray(kinds)
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
            self._epoch, self._order = epoch, self._drawn(np.random.default_rng([self.seed, epoch]))
        return int(self._order[offset])

    def _drawn(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The order of an epoch: by chance; with kinds, examples of a kind side by side and their batches by chance."""
        order = rng.permutation(self.size)
        if self._kinds is None:
            return order
        order = order[np.argsort(self._kinds[order], kind="stable")]
        whole = self.size // self.batch_size
        batches = order[: whole * self.batch_size].reshape(whole, self.batch_size)
        return np.concatenate([rng.permutation(batches).ravel(), order[whole * self.batch_size :]])


def steps_of(steps: int | None, epochs: float, size: int, batch_size: int) -> int:
    """The number of optimizer steps: as given, else what ``epochs`` passes over ``size`` examples take."""
    return steps if steps is not None else max(1, math.ceil(epochs * size / batch_size))


def deal(indices: Sequence[int], rank: int, world_size: int, micro_batch_size: int | None) -> list[Portion]:
    """The micro-batches of process ``rank``: all processes get the same number of them.

    ``micro_batch_size`` None: one micro-batch. A process with too few examples for a micro-batch computes
    one of the batch again as a filler.
    """
    largest = math.ceil(len(indices) / world_size)
    number = 1 if micro_batch_size is None else math.ceil(largest / micro_batch_size)
    mine = list(indices[rank::world_size])
    return [_portion(mine[part::number], indices[0]) for part in range(number)]


def _portion(indices: Sequence[int], stand_in: int) -> Portion:
    """A micro-batch of these examples; of a stand-in, as a filler, where there are none."""
    return Portion(tuple(indices)) if indices else Portion((stand_in,), filler=True)
