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
"""Batches whose examples are sorted by length together: enough for little padding, few enough to stay random."""


@dataclass(frozen=True)
class MicroBatchIndices:
    """The examples of one micro-batch. A ``filler`` only keeps its process in step and must not count."""

    indices: tuple[int, ...]
    filler: bool = False


class BatchOrder(Protocol):
    """Which examples a step takes."""

    def batch(self, step: int) -> tuple[int, ...]:
        """Return the indices of the examples of ``step`` (from 0)."""


class EpochOrder:
    """Batches over ``size`` examples, epoch after epoch, each epoch in a new order; batches run across epochs.

    ``kinds`` [size]: examples of one kind share batches as far as possible (images of one size need no padding).
    ``lengths`` [size]: batches hold examples of similar length, out of windows of at most WINDOW batches.
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
        self._sort_keys = None if kinds is None and lengths is None else np.asarray(lengths if kinds is None else kinds)
        # Four windows at least: with only one, an example would have the same neighbours in every epoch.
        self._window = size if lengths is None else batch_size * max(1, min(WINDOW, size // (4 * batch_size)))
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> tuple[int, ...]:
        """Return the indices of the examples of ``step`` (from 0)."""
        first = step * self.batch_size
        return tuple(self._index_at(position) for position in range(first, first + self.batch_size))

    def used(self, steps: int) -> tuple[int, ...]:
        """Return every index that the first ``steps`` batches take, ascending."""
        if steps * self.batch_size >= self.size:
            return tuple(range(self.size))
        return tuple(sorted(index for step in range(steps) for index in self.batch(step)))

    def _index_at(self, position: int) -> int:
        epoch, offset = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._order_of(epoch)
        return int(self._order[offset])

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        """Return the order of an epoch: random; with sort keys, sorted into batches, whose order is random."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self.size)
        if self._sort_keys is None:
            return order
        begun = min(-epoch * self.size % self.batch_size, self.size)  # they complete the last batch of the epoch before
        body = self._sorted(order[begun:], self._sort_keys)
        full = len(body) // self.batch_size
        batches = body[: full * self.batch_size].reshape(full, self.batch_size)
        return np.concatenate([order[:begun], rng.permutation(batches).ravel(), body[full * self.batch_size :]])

    def _sorted(self, order: NDArray[np.int64], keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sort each window by key, ascending."""
        windows = [order[first : first + self._window] for first in range(0, len(order), self._window)]
        return np.concatenate([order[:0], *(part[np.argsort(keys[part], kind="stable")] for part in windows)])


@dataclass(frozen=True)
class FixedBatch:
    """The same batch in every step."""

    indices: tuple[int, ...]

    def batch(self, step: int) -> tuple[int, ...]:  # noqa: ARG002 -- the same in every step
        """Return its indices."""
        return self.indices


def steps_of(steps: int | None, epochs: float, size: int, batch_size: int) -> int:
    """Return the number of optimizer steps: ``steps`` if set, else that of ``epochs`` passes over ``size`` examples."""
    return steps if steps is not None else max(1, math.ceil(epochs * size / batch_size))


def split_batch(
    indices: Sequence[int], rank: int, world_size: int, micro_batch_size: int | None, *, neighbours: bool = False
) -> list[MicroBatchIndices]:
    """Return the micro-batches of process ``rank``: all processes get the same number of them.

    ``micro_batch_size`` None: one micro-batch. A process with too few examples for a micro-batch computes the batch's
    first one again as a filler. ``neighbours``: a micro-batch takes examples that follow each other among the process's
    own (of similar length, where the indices are in that order), instead of every so many.
    """
    largest = math.ceil(len(indices) / world_size)
    number = 1 if micro_batch_size is None else math.ceil(largest / micro_batch_size)
    local = list(indices[rank::world_size])
    if neighbours:
        edges = [len(local) * part // number for part in range(number + 1)]
        parts = [local[begin:end] for begin, end in pairwise(edges)]
    else:
        parts = [local[part::number] for part in range(number)]
    filler = MicroBatchIndices((indices[0],), filler=True)
    return [MicroBatchIndices(tuple(part)) if part else filler for part in parts]
