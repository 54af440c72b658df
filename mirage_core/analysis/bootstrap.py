"""Intervals by resampling instances: the bootstrap, and the jackknife for figures that copies of an instance bias.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 11 and 13. Where instances share pictures
(``evaluation/pictures.py``), whole units are resampled: the cluster bootstrap of Davison and Hinkley, Bootstrap Methods
and their Application (1997), section 3.8. Legend: N instances, U units, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from mirage_core.analysis.results import Estimate
from mirage_core.errors import InputError
from mirage_core.evaluation.pictures import Units, has_shared, subset
from mirage_core.evaluation.statistics import wilson

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Computes a figure [R] from weights of the instances [R, N], whose rows sum to 1."""

LEVEL = 0.95
_JACKKNIFE_GROUPS = 50
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)


def bootstrap(statistic: Statistic, instances: int, resamples: int, seed: int, units: Units | None = None) -> Estimate:
    """The figure of all instances and its percentile interval; None without instances.

    ``units`` [N]: what is resampled (None: each instance is one).
    Resamples in which the figure is undefined (nan) are left out of the interval.
    """
    if instances == 0:
        return Estimate(value=None, n=0)
    value = float(statistic(np.full((1, instances), 1 / instances))[0])
    if not np.isfinite(value):
        return Estimate(value=None, n=instances)
    drawn = statistic(resample_weights(instances, resamples, seed, units))
    low, high = _ends(drawn[np.isfinite(drawn)])
    return Estimate(value=value, low=low, high=high, n=instances)


def bootstrap_mean(values: Floats, resamples: int, seed: int, units: Units | None = None) -> Estimate:
    """The mean of one value per instance [N], with its interval; nan values are left out."""
    known = np.asarray(values, dtype=np.float64)
    finite = np.flatnonzero(np.isfinite(known))
    known = known[finite]
    return bootstrap(lambda weights: weights @ known, len(known), resamples, seed, subset(units, finite))


def resample_weights(instances: int, resamples: int, seed: int, units: Units | None = None) -> Floats:
    """Weights [R, N] of instances whose units were drawn with replacement: how often each was drawn, over their sum."""
    generator = np.random.default_rng(seed)
    if units is None or not has_shared(units):
        return generator.multinomial(instances, np.full(instances, 1 / instances), size=resamples) / instances
    count = int(units.max()) + 1
    drawn = generator.multinomial(count, np.full(count, 1 / count), size=resamples)[:, units]
    return np.asarray(drawn / drawn.sum(1, keepdims=True))


def jackknife(
    figure: Callable[[NDArray[np.int64]], float], instances: int, seed: int, units: Units | None = None
) -> Estimate:
    """A figure of a set of instances (given by index), with the interval of the delete-a-group jackknife.

    For figures that copies of an instance bias, such as a rank. At most 50 groups of whole units, drawn by ``seed``.
    """
    of_instance = np.arange(instances) if units is None else units
    count = int(of_instance.max(initial=-1)) + 1
    if count < 2:
        return Estimate(value=None, n=instances)
    indices = np.arange(instances)
    value = figure(indices)
    if not np.isfinite(value):
        return Estimate(value=None, n=instances)
    groups = min(count, _JACKKNIFE_GROUPS)
    left_out = (np.random.default_rng(seed).permutation(count) % groups)[of_instance]
    without = np.array([figure(indices[left_out != group]) for group in range(groups)])
    error = float(np.sqrt((groups - 1) * without.var()))
    return Estimate(value=float(value), low=float(value) - _Z * error, high=float(value) + _Z * error, n=instances)


def share(hits: NDArray[np.bool_] | list[bool], units: Units | None = None) -> Estimate:
    """The share of hits with Wilson's interval; None without any to count.

    Where instances share units, the interval is that of as many independent ones as tell as much
    (``effective_count``).
    """
    n = len(hits)
    if n == 0:
        return Estimate(value=None, n=0)
    value = int(np.sum(hits)) / n
    count = effective_count(np.asarray(hits, dtype=np.float64), units)
    low, high = wilson(int(np.sum(hits)), n) if count == n else wilson(value * count, count)
    return Estimate(value=value, low=low, high=high, n=n)


def effective_count(values: Floats, units: Units | None) -> float:
    """How many independent instances would give the mean of ``values`` [N] the variance it has with these units.

    N over the design effect (Kish, Survey Sampling (1965), section 5.4): never more than N. The number of
    units where all values are equal and the variance says nothing.
    """
    n = len(values)
    if units is None or not has_shared(units):
        return n
    count = int(units.max()) + 1
    residuals = values - values.mean()
    spread = float((residuals**2).sum())
    if spread == 0 or count < 2:
        return count
    totals = np.bincount(units, weights=residuals, minlength=count)
    effect = float((totals**2).sum()) / spread * count / (count - 1)
    return n / min(max(effect, 1.0), float(n))


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
