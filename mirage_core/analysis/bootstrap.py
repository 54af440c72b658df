"""Intervals by resampling instances: the bootstrap, and the jackknife for figures that copies of an instance bias.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 11 and 13. Legend: N instances, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mirage_core.analysis.results import Estimate
from mirage_core.errors import InputError
from mirage_core.evaluation.statistics import wilson

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Computes a figure [R] from weights of the instances [R, N], whose rows sum to 1."""

LEVEL = 0.95
_JACKKNIFE_GROUPS = 50
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)


def bootstrap(statistic: Statistic, instances: int, resamples: int, seed: int) -> Estimate:
    """The figure of all instances and its percentile interval; None without instances.

    Resamples in which the figure is undefined (nan) are left out of the interval.
    """
    if instances == 0:
        return Estimate(value=None, n=0)
    value = float(statistic(np.full((1, instances), 1 / instances))[0])
    if not np.isfinite(value):
        return Estimate(value=None, n=instances)
    drawn = statistic(resample_weights(instances, resamples, seed))
    low, high = _ends(drawn[np.isfinite(drawn)])
    return Estimate(value=value, low=low, high=high, n=instances)


def bootstrap_mean(values: Floats, resamples: int, seed: int) -> Estimate:
    """The mean of one value per instance [N], with its interval; nan values are left out."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return bootstrap(lambda weights: weights @ known, len(known), resamples, seed)


def resample_weights(instances: int, resamples: int, seed: int) -> Floats:
    """Weights [R, N] of instances drawn with replacement: how often each was drawn, over N."""
    generator = np.random.default_rng(seed)
    chances = np.full(instances, 1 / instances)
    return generator.multinomial(instances, chances, size=resamples) / instances


def jackknife(figure: Callable[[NDArray[np.int64]], float], instances: int, seed: int) -> Estimate:
    """A figure of a set of instances (given by index), with the interval of the delete-a-group jackknife.

    For figures that copies of an instance bias, such as a rank. At most 50 groups, drawn by ``seed``.
    """
    if instances < 2:
        return Estimate(value=None, n=instances)
    indices = np.arange(instances)
    value = figure(indices)
    if not np.isfinite(value):
        return Estimate(value=None, n=instances)
    groups = min(instances, _JACKKNIFE_GROUPS)
    left_out = np.random.default_rng(seed).permutation(instances) % groups
    without = np.array([figure(indices[left_out != group]) for group in range(groups)])
    error = float(np.sqrt((groups - 1) * without.var()))
    return Estimate(value=float(value), low=float(value) - _Z * error, high=float(value) + _Z * error, n=instances)


def share(hits: NDArray[np.bool_] | list[bool]) -> Estimate:
    """The share of hits with Wilson's interval; None without any to count."""
    n = len(hits)
    if n == 0:
        return Estimate(value=None, n=0)
    count = int(np.sum(hits))
    low, high = wilson(count, n)
    return Estimate(value=count / n, low=low, high=high, n=n)


def check_rows(*arrays: NDArray[np.generic]) -> None:
    """Refuse arrays of different numbers of instances."""
    lengths = {len(array) for array in arrays}
    if len(lengths) > 1:
        raise InputError(f"got arrays of {sorted(lengths)} instances, expected one row an instance in all of them")


def _ends(drawn: Floats) -> tuple[float | None, float | None]:
    if not len(drawn):
        return None, None
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
