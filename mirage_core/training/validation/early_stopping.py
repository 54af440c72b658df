"""When a stage's loss diverges, which validation was the best, when to stop, and the best weights on disk.

All decisions are functions of the curves, which travel with every checkpoint: a resumed run decides like an undisturbed
one.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mirage_core.config import ValidationSettings
from mirage_core.distributed.collectives import wait_for_all
from mirage_core.distributed.context import current_process
from mirage_core.errors import TrainingError
from mirage_core.training.engine.base import trained_parameters
from mirage_core.training.engine.gather_weights import gathered_parameter
from mirage_core.training.logging.curves import Curves

FIRST, LAST = 10, 10
"""Steps whose mean is the initial loss, and whose median is the current loss: one bad batch is no divergence."""
MIN_INITIAL_LOSS = 0.1
"""An initial loss below this counts as this: a few times almost nothing is not much."""
PREFIX = "validation/"
BEST_FILE = "best.safetensors"


@dataclass(frozen=True, slots=True)
class Best:
    """The best validation so far: after which step, and its figure."""

    step: int
    value: float


class LossDivergence:
    """Detects a loss above ``max_loss_ratio`` times the initial one; None accepts any."""

    def __init__(self, max_loss_ratio: float | None, curves: Curves) -> None:
        self._max_loss_ratio = max_loss_ratio
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=LAST)
        for _, value in curves.points("loss"):
            self._add(value)

    def check(self, step: int, loss: float) -> str | None:
        """Add the loss of a step (the first is 1); returns a message where the loss diverges."""
        self._add(loss)
        if self._max_loss_ratio is None or len(self._last) < LAST:
            return None
        initial, now = max(fmean(self._first), MIN_INITIAL_LOSS), median(self._last)
        if now <= self._max_loss_ratio * initial:
            return None
        return (
            f"step {step}: the loss diverges: its median over the last {LAST} steps is {now:.4g}, more than "
            f"max_loss_ratio = {self._max_loss_ratio:g} times {initial:.4g}, the mean of the first {FIRST} steps"
        )

    def _add(self, loss: float) -> None:
        if len(self._first) < FIRST:
            self._first.append(loss)
        else:
            self._last.append(loss)


class EarlyStopping:
    """Tracks the best validation of a stage by its metric, and how many validations ago it was."""

    def __init__(self, settings: ValidationSettings, curves: Curves) -> None:
        self._settings = settings
        self._better = max if settings.metric == "accuracy" else min
        self.metric = f"{PREFIX}{settings.metric}"
        self.best: Best | None = None
        self._since_best = 0
        for step, value in curves.points(self.metric):
            self.update(step, value)

    def update(self, step: int, value: float) -> bool:
        """Add the figure of a validation after ``step``; returns whether it is better than all before."""
        improved = self.best is None or (value != self.best.value and self._better(value, self.best.value) == value)
        if improved:
            self.best, self._since_best = Best(step, value), 0
        else:
            self._since_best += 1
        return improved

    @property
    def stop_reason(self) -> str | None:
        """Why to stop now; None to go on."""
        patience = self._settings.patience
        if patience is None or self.best is None or self._since_best < patience:
            return None
        return (
            f"stops early: none of the last {self._since_best} validations was better than {self.metric} "
            f"{self.best.value:.4g} after step {self.best.step}"
        )


def save_best_weights(module: nn.Module, folder: Path, step: int) -> None:
    """Write the trained weights after ``step``, in place of earlier ones; every process calls this alike.

    Weights sharded by ZeRO-3 are gathered one after the other; process 0 needs main memory for a copy of all.
    """
    weights: dict[str, Tensor] = {}
    for name, parameter in trained_parameters(module):
        with gathered_parameter(parameter, modified=False):
            if current_process().is_main:
                weights[name] = parameter.detach().to("cpu", copy=True).contiguous()
    if current_process().is_main:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{BEST_FILE}.part"
        save_file(weights, partial, metadata={"step": str(step)})
        os.replace(partial, folder / BEST_FILE)


def check_best_weights(folder: Path, step: int) -> None:
    """Raise TrainingError unless the file holds the weights after ``step``."""
    content = "nothing"
    if (folder / BEST_FILE).is_file():
        with safe_open(folder / BEST_FILE, "pt") as file:
            content = f"the weights after step {(file.metadata() or {}).get('step')}"
    if content != f"the weights after step {step}":
        raise TrainingError(
            f"{folder / BEST_FILE} holds {content}, expected those of the best validation, after step {step}. Delete "
            "the checkpoints of this run, then run again"
        )


def load_best_weights(module: nn.Module, folder: Path, step: int) -> None:
    """Load the weights saved after ``step``; every process calls this alike. TrainingError as in the check."""
    wait_for_all()  # process 0 may have written just now
    check_best_weights(folder, step)
    with safe_open(folder / BEST_FILE, "pt") as file, torch.no_grad():
        for name, parameter in trained_parameters(module):
            with gathered_parameter(parameter, modified=True):
                parameter.copy_(file.get_tensor(name))
