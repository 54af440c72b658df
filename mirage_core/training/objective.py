"""What a supervised program gives the loop: its modules, its batches and its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from mirage_core.training.sft.losses import LossParts


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one process: its data, and how much of each counted thing it holds.

    ``counts`` has the same keys in every micro-batch ("tokens": labelled tokens, "latents", ...), and so has
    ``work`` (``meters.work_of``), by which the speed is told.
    Where ``filler`` is True the data only keeps the processes in step: its loss is multiplied by 0.
    """

    data: Any
    counts: Mapping[str, float]
    filler: bool = False
    work: Mapping[str, float] = field(default_factory=dict)


class Objective(Protocol):
    """A supervised training program, as the loop drives it.

    The gradient is to be the mean over the GLOBAL batch however it was cut into processes and micro-batches:
    so the loop adds up ``counts`` over all of them first, and a loss is divided by these totals instead of its own.
    """

    def modules(self) -> Mapping[str, nn.Module]:
        """Modules trained beside the backbone and thrown away afterwards; empty for most."""

    def micro_batches(self, step: int, rank: int, world_size: int) -> Sequence[MicroBatch]:
        """What process ``rank`` computes in ``step`` (from 0): a function of its arguments and the seed alone.

        Every process returns the same number, at least one; together they are the step's batch, whose
        content does not depend on ``world_size``.
        """

    def loss(self, backbone: nn.Module, data: Any, totals: Mapping[str, float]) -> LossParts:
        """What one micro-batch adds to the step's loss, given the counts of the whole step.

        ``total`` and ``parts`` are contributions: their sums over micro-batches and processes are the step's figures.
        The names of the parts are the same in every process.
        """

    def examples(self, step: int) -> Sequence[str]:
        """The names of the examples of a step, for people to look at; empty where there are none to look at."""


def counted(batches: Sequence[MicroBatch]) -> dict[str, float]:
    """The counts of all micro-batches of this process; fillers count nothing."""
    return _summed(batches, [batch.counts for batch in batches])


def worked(batches: Sequence[MicroBatch]) -> dict[str, float]:
    """The work in all micro-batches of this process; fillers are none."""
    return _summed(batches, [batch.work for batch in batches])


def _summed(batches: Sequence[MicroBatch], held: Sequence[Mapping[str, float]]) -> dict[str, float]:
    totals = dict.fromkeys(held[0], 0.0)
    for batch, numbers in zip(batches, held, strict=True):
        for name, number in numbers.items():
            totals[name] += 0.0 if batch.filler else number
    return totals


def contribution(part: Tensor, count: float, total: float) -> Tensor:
    """What a mean over ``count`` things adds to the mean over ``total`` of them."""
    return part * (count / total if total else 0.0)
