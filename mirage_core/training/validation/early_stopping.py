"""Whether a stage goes well: when its loss runs away, which validation was the best, and when to stop.

Everything is told from the curves, which travel with every checkpoint: so a resumed run judges as an undisturbed one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mirage_core.config import ValidationSettings
from mirage_core.distributed.collectives import wait_for_all
from mirage_core.errors import TrainingError
from mirage_core.training.engine.base import trained
from mirage_core.training.logging.curves import Curves

FIRST, LAST = 10, 10
"""Steps whose mean is the loss it began with, and whose median is the loss now: one bad batch is no divergence."""
LEAST_FIRST = 0.1
"""A loss that began below this counts as this: a few times almost nothing is not much."""
PREFIX = "validation/"


@dataclass(frozen=True, slots=True)
class Best:
    """The best validation so far: after which step, and its figure."""

    step: int
    value: float


class Divergence:
    """Follows the loss; ``stop_above``: how many times the first losses it may be, None for any."""

    def __init__(self, stop_above: float | None, curves: Curves) -> None:
        self._stop_above = stop_above
        self._first: list[float] = []
        self._last: deque[float] = deque(maxlen=LAST)
        for _, value in curves.points("loss"):
            self._add(value)

    def follow(self, step: int, loss: float) -> str | None:
        """Take the loss of a step (the first is 1); says what is wrong where it has run away."""
        self._add(loss)
        if self._stop_above is None or len(self._last) < LAST:
            return None
        begun, now = max(fmean(self._first), LEAST_FIRST), median(self._last)
        if now <= self._stop_above * begun:
            return None
        return (
            f"step {step}: the loss diverges: its median over the last {LAST} steps is {now:.4g}, more than "
            f"stop_above = {self._stop_above:g} times {begun:.4g}, where it began (the mean of the first {FIRST} steps)"
        )

    def _add(self, loss: float) -> None:
        if len(self._first) < FIRST:
            self._first.append(loss)
        else:
            self._last.append(loss)


class Watch:
    """Follows the validations of a stage by its metric."""

    def __init__(self, settings: ValidationSettings, curves: Curves) -> None:
        self._settings = settings
        self._better = max if settings.metric == "accuracy" else min
        self.metric = f"{PREFIX}{settings.metric}"
        self.best: Best | None = None
        self._since = 0
        for step, value in curves.points(self.metric):
            self.judge(step, value)

    def judge(self, step: int, value: float) -> bool:
        """Take the figure of a validation after ``step``; whether it is better than all before."""
        found = self.best is None or (value != self.best.value and self._better(value, self.best.value) == value)
        if found:
            self.best, self._since = Best(step, value), 0
        else:
            self._since += 1
        return found

    @property
    def stop(self) -> str | None:
        """Why to stop now; None to go on."""
        patience = self._settings.patience
        if patience is None or self.best is None or self._since < patience:
            return None
        return (
            f"stops early: none of the last {self._since} validations was better than {self.metric} "
            f"{self.best.value:.4g} after step {self.best.step}"
        )


FILE = "best.safetensors"


def keep_best(module: nn.Module, folder: Path, step: int, rank: int) -> None:
    """Write the trained weights as they are after ``step``, in place of earlier ones; every process calls this alike.

    Weights sharded by ZeRO-3 are gathered one after the other; process 0 holds a copy of all in main memory meanwhile.
    """
    weights: dict[str, Tensor] = {}
    for name, parameter in trained(module):
        with _whole(parameter, written=False):
            if rank == 0:
                weights[name] = parameter.detach().to("cpu", copy=True).contiguous()
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        half = folder / f".{FILE}.part"
        save_file(weights, half, metadata={"step": str(step)})
        os.replace(half, folder / FILE)


def check_best(folder: Path, step: int) -> None:
    """TrainingError where the file does not hold the weights after ``step``."""
    found = "nothing"
    if (folder / FILE).is_file():
        with safe_open(folder / FILE, "pt") as file:
            found = f"the weights after step {(file.metadata() or {}).get('step')}"
    if found != f"the weights after step {step}":
        raise TrainingError(
            f"{folder / FILE} holds {found}, expected those of the best validation, after step {step}. Delete the "
            "checkpoints of this run, then run again"
        )


def load_best(module: nn.Module, folder: Path, step: int) -> None:
    """Give the module the weights kept after ``step``; every process calls this alike. TrainingError as check_best."""
    wait_for_all()  # process 0 may have written just now
    check_best(folder, step)
    with safe_open(folder / FILE, "pt") as file, torch.no_grad():
        for name, parameter in trained(module):
            with _whole(parameter, written=True):
                parameter.copy_(file.get_tensor(name))


@contextmanager
def _whole(parameter: Any, *, written: bool) -> Iterator[None]:
    """Inside the block a parameter that ZeRO-3 has sharded is whole; what process 0 writes to it stays."""
    if not hasattr(parameter, "ds_shape"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if written else None):
        yield
