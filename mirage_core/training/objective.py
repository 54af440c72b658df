"""The interface between a training program and the loop: its modules, its micro-batches and its loss."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol

from torch import Tensor, nn

TEXT_ONLY: Mapping[str, float] = {"text": 1.0}


@dataclass(frozen=True, slots=True)
class LossParts:
    """``total`` to call backward on, its ``parts``, and the ``weights`` of the parts that it is the sum of.

    "text" (mean over labelled tokens) and "visual" (mean over latents) keep their gradient, so that a loop can weigh
    micro-batches by their counts (``counts_of``); every other part is a figure to log.
    """

    total: Tensor
    parts: dict[str, Tensor]
    weights: Mapping[str, float] = field(default_factory=lambda: TEXT_ONLY)

    @classmethod
    def sum(cls, parts: dict[str, Tensor], weights: Mapping[str, float] = TEXT_ONLY) -> LossParts:
        """Return the weighted sum of the parts, in the order of the weights."""
        terms = [parts[name] if weight == 1 else weight * parts[name] for name, weight in weights.items()]
        return cls(reduce(operator.add, terms), parts, weights)


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one process: its data, and the counts that its losses are means over.

    ``counts`` has the same keys in every micro-batch ("tokens": labelled tokens, "latents", ...), and so has ``work``
    (``throughput.work_of``), from which the throughput is computed.
    A ``filler`` only keeps the processes in step: its loss is multiplied by 0.
    """

    data: Any
    counts: Mapping[str, float]
    filler: bool = False
    work: Mapping[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """A training program, as the loop drives it.

    The gradient is the mean over the GLOBAL batch, however it was split into processes and micro-batches: so the loop
    adds up ``counts`` over all of them first, and a loss is divided by these totals instead of its own.
    """

    def modules(self) -> Mapping[str, nn.Module]:
        """Return modules that are trained beside the backbone and discarded afterwards; empty for most."""

    def micro_batches(self, step: int) -> Sequence[MicroBatch]:
        """Return what the current process computes in ``step`` (from 0): a function of process, step and seed alone.

        Every process returns the same number, at least one; together they are the step's batch, whose content does not
        depend on the number of processes.
        """

    def loss(self, backbone: nn.Module, data: Any, totals: Mapping[str, float]) -> LossParts:
        """Return what one micro-batch adds to the step's loss, from the counts of the whole step.

        ``total`` and ``parts`` are contributions: their sums over micro-batches and processes are the step's figures.
        The names of the parts are the same in every process.
        """

    def examples(self, step: int) -> Sequence[str]:
        """Return the names of the examples of a step, for error messages; empty where they have none."""


def total_counts(batches: Sequence[MicroBatch]) -> dict[str, float]:
    """Return the counts of all micro-batches of this process; fillers count nothing."""
    return _total(batches, [batch.counts for batch in batches])


def total_work(batches: Sequence[MicroBatch]) -> dict[str, float]:
    """Return the work in all micro-batches of this process; fillers are none."""
    return _total(batches, [batch.work for batch in batches])


def _total(batches: Sequence[MicroBatch], amounts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    totals = dict.fromkeys(amounts[0], 0.0)
    for batch, values in zip(batches, amounts, strict=True):
        for name, value in values.items():
            totals[name] += 0.0 if batch.filler else value
    return totals


def contribution(part: Tensor, count: float, total: float) -> Tensor:
    """Return what a mean over ``count`` items adds to the mean over ``total`` of them."""
    return part * (count / total if total else 0.0)
