"""Validation on a split of its own while a stage trains, without any effect on the training.

It computes no gradient, draws none of the training's random numbers, and leaves the order of its examples alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mirage_core.config import ValidationSettings
from mirage_core.training.engine.base import Engine

Metric = Callable[[Engine], dict[str, float]]
"""Computes figures by name, the same in every process; every process calls it alike."""


@dataclass(frozen=True)
class Validation:
    """When to validate, and which metrics to compute."""

    settings: ValidationSettings
    metrics: tuple[Metric, ...]

    def due(self, step: int, steps: int) -> bool:
        """Whether to validate after ``step`` of ``steps``: before the first, every so many, and after the last."""
        return self.settings.every is not None and (step % self.settings.every == 0 or step == steps)

    def measure(self, engine: Engine, module: nn.Module) -> dict[str, float]:
        """Compute all figures of the trained module."""
        with evaluation_mode(module):
            return {name: value for metric in self.metrics for name, value in metric(engine).items()}


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluate without gradients inside the block; afterwards modules' modes and random numbers are as before."""
    device = next(module.parameters()).device
    modes = [(part, part.training) for part in module.modules()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        module.eval()
        try:
            yield
        finally:
            for part, training in modes:
                part.training = training


def sample(size: int, number: int, seed: int) -> tuple[int, ...]:
    """Return ``number`` indices below ``size`` (all, if there are no more), the same at every validation, ascending."""
    order = np.random.default_rng([seed, size]).permutation(size)
    return tuple(sorted(int(index) for index in order[:number]))
