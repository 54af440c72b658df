"""The learning rate as a function of the step."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "cosine", "linear"]


def learning_rate(step: int, *, steps: int, peak: float, warmup_steps: int, schedule: Schedule) -> float:
    """The rate of optimizer step ``step`` (the first is 0) of ``steps``.

    Linear from peak / warmup_steps to peak over the warm-up, which takes half the steps at most; then constant,
    or a half cosine or a line that would reach 0 one step after the last.
    """
    warmup = min(warmup_steps, steps // 2)
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (0.5 * (1 + math.cos(math.pi * done)) if schedule == "cosine" else 1 - done)
