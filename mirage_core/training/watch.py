"""Whether a stage goes well: when its loss runs away, which validation was the best, and when to stop.

Everything is told from the curves, which travel with every checkpoint: so a resumed run judges as an undisturbed one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import fmean, median

from mirage_core.config import ValidationSettings
from mirage_core.training.curves import Curves

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
