"""When a stage is measured on the validation split while it trains, and that nothing of it touches the training.

No gradient, no random number of the training's course, no order of its examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from mirage_core.config import ValidationSettings
from mirage_core.model.backbone import Backbone
from mirage_core.training.engine.base import Engine

Measure = Callable[[Engine], dict[str, float]]
"""Figures by name, the same in every process; every process calls it alike."""


@dataclass(frozen=True)
class Validation:
    """When it is measured, and what."""

    settings: ValidationSettings
    measures: tuple[Measure, ...]

    def due(self, step: int, steps: int) -> bool:
        """Whether after ``step`` of ``steps``: before the first, every so many, and after the last."""
        return self.settings.every is not None and (step % self.settings.every == 0 or step == steps)

    def measure(self, engine: Engine, backbone: Backbone) -> dict[str, float]:
        """All figures of now."""
        with undisturbed(backbone):
            return {name: value for measure in self.measures for name, value in measure(engine).items()}


@contextmanager
def undisturbed(backbone: Backbone) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module's mode and the random numbers are as they were."""
    device = backbone.device
    before = [(module, module.training) for module in backbone.modules()]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        backbone.eval()
        try:
            yield
        finally:
            for module, training in before:
                module.training = training


def sample(size: int, number: int, seed: int) -> tuple[int, ...]:
    """``number`` indices below ``size`` (all, where there are no more), the same at every validation, ascending."""
    order = np.random.default_rng([seed, size]).permutation(size)
    return tuple(sorted(int(index) for index in order[:number]))
