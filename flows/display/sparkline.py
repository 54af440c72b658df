"""A curve as a few characters: ▇▅▃▂▁."""

from __future__ import annotations

import math
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 12) -> str:
    """Return at most ``width`` bars, each the mean of its part of ``values``; what is not finite is left out."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    count = min(width, len(finite))
    means = [_mean(finite[part * len(finite) // count : (part + 1) * len(finite) // count]) for part in range(count)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
