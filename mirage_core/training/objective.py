"""What a supervised program gives the loop: its modules, its batches and its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from mirage_core.training.losses import LossParts


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one process: its data, and how much of each counted thing it holds.

    ``counts`` has the same keys in every micro-batch ("tokens": labelled tokens, "latents", ...).
    Where ``filler`` is True the data only keeps the processes in step: its loss is multiplied by 0.
    """

    data: Any
    counts: Mapping[str, float]
    filler: bool = False


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
        """


def contribution(part: Tensor, count: float, total: float) -> Tensor:
    """What a mean over ``count`` things adds to the mean over ``total`` of them."""
    return part * (count / total if total else 0.0)
