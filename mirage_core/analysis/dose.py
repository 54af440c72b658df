"""Dose and response: whether answers fall as noise on the latents grows, and where half of the fall is reached.

Legend: N instances, S scales, the clean run at scale 0 first.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr

from mirage_core.analysis.resampling import Floats
from mirage_core.errors import InputError

_ROUNDING = 1e-9


def falling(accuracy: Floats) -> Floats:
    """The accuracies [S] nearest to these that only fall (isotonic regression)."""
    fitted: Floats = np.asarray(isotonic_regression(accuracy, increasing=False).x, dtype=np.float64)
    return fitted


def half_scale(scales: Sequence[float], fitted: Floats) -> float | None:
    """The scale at which a falling curve has lost half of all it loses, between two scales on a straight line.

    None where it loses nothing.
    """
    if len(scales) != len(fitted):
        raise InputError(f"got {len(scales)} scales for {len(fitted)} accuracies, expected one each")
    lost = float(fitted[0] - fitted[-1])
    if lost <= _ROUNDING:
        return None
    half = float(fitted[0]) - lost / 2
    after = int(np.flatnonzero(fitted <= half)[0])
    before = after - 1
    step = float(fitted[before] - fitted[after])
    return float(scales[before] + (scales[after] - scales[before]) * (float(fitted[before]) - half) / step)


def rank_correlation(scales: Sequence[float], accuracy: Floats) -> float | None:
    """Spearman's rank correlation of scale and accuracy; None where the accuracy never changes."""
    if len(scales) < 3 or np.ptp(accuracy) == 0:
        return None
    return float(spearmanr(scales, accuracy).statistic)


def trend_p(correct: NDArray[np.bool_]) -> float | None:
    """Test that answers are right ever less from scale to scale: correct [N, S], p of one side.

    Mantel's extension test with every instance a stratum (J. Am. Statist. Assoc. 58 (1963) 690-700): under no effect
    each instance's right answers lie at any of the scales alike. It counts instances that change alone, so answers
    that are right, or wrong, throughout do not weaken it. None for fewer than three scales or two instances; 1 where
    no instance ever changes.
    """
    scales = correct.shape[1]
    if scales < 3 or len(correct) < 2:
        return None
    ranks = np.arange(scales) - (scales - 1) / 2
    right = correct.sum(1)
    variance = float((right * (scales - right)).sum()) / (scales - 1) * float((ranks**2).mean())
    if variance == 0:
        return 1.0
    return NormalDist().cdf(float((correct * ranks).sum()) / sqrt(variance))
