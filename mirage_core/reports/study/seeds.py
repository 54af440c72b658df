"""Shares and paired differences over several seeds: means, intervals that include the spread between seeds, tests.

One seed: Wilson's interval of a share, Newcombe's of a paired difference, McNemar's test. Several: the mean over the
seeds with a t interval of their values (S - 1 degrees of freedom). Where every seed has its own test problems, that
spread includes the choice of problems; the interval is never narrower than that of all answers pooled, so that two
seeds that agree by chance do not seem exact. Where seeds share their problems, both widths are added in quadrature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from scipy.stats import t, ttest_1samp

from mirage_core.errors import InputError
from mirage_core.evaluation.statistics import PairedTest, mcnemar, mcnemar_p, paired_interval, wilson

LEVEL = 0.95
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over seeds with its interval. ``values``: one a seed; ``spread``: their standard deviation (n - 1)."""

    mean: float
    interval: Interval
    values: tuple[float, ...]

    @property
    def spread(self) -> float:
        """The standard deviation over the seeds; 0 for one seed."""
        return stdev(self.values) if len(self.values) > 1 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A cell against the baseline on the same problems, seed by seed.

    ``p_problems``: the sign test over problems (McNemar's where every problem was answered once): of the problems on
    which the two differ, are more won than lost? It is about these models. ``p_seeds``: the t test of the seeds'
    differences; it is about training again. None with fewer than two seeds, or where their differences are equal.
    """

    difference: Estimate
    tests: tuple[PairedTest, ...]
    p_problems: float
    p_seeds: float | None


def share(right: Sequence[float], n: Sequence[int], *, same_problems: bool) -> Estimate:
    """Return the mean over seeds of the share of right answers; ``right`` and ``n`` by seed, as for ``wilson``."""
    if not n or len(right) != len(n) or min(n) < 1:
        raise InputError(f"a share needs problems under every seed, got {list(right)} right of {list(n)}")
    values = tuple(correct / count for correct, count in zip(right, n, strict=True))
    if len(values) == 1:
        return Estimate(mean=values[0], interval=wilson(right[0], n[0]), values=values)
    mean = fmean(values)
    pooled = n[0] if same_problems else sum(n)
    low, high = wilson(mean * pooled, pooled)
    interval = _widened(values, (mean - low, high - mean), same_problems, (0.0, 1.0))
    return Estimate(mean=mean, interval=interval, values=values)


def compare(
    cell: Sequence[Mapping[str, bool]], baseline: Sequence[Mapping[str, bool]], *, same_problems: bool
) -> Comparison:
    """Compare two cells; for each seed, whether each problem (by id) was answered right.

    InputError where the two did not answer the same problems under a seed.
    """
    tests = tuple(
        mcnemar("cell", dict(ours), "baseline", dict(theirs)) for ours, theirs in zip(cell, baseline, strict=True)
    )
    values = tuple(test.difference for test in tests)
    won, lost = _won_and_lost(cell, baseline, same_problems=same_problems)
    return Comparison(
        difference=difference(tests, same_problems=same_problems),
        tests=tests,
        p_problems=mcnemar_p(won, lost),
        p_seeds=_p_seeds(values),
    )


def difference(tests: Sequence[PairedTest], *, same_problems: bool) -> Estimate:
    """Return the mean over seeds of paired differences: the first of each test minus the second."""
    values = tuple(test.difference for test in tests)
    if len(tests) == 1:
        return Estimate(mean=values[0], interval=tests[0].interval, values=values)
    scale = 1 / len(tests) if same_problems else 1.0
    counts = [
        scale * sum(getattr(test, name) for test in tests) for name in ("both", "only_first", "only_second", "neither")
    ]
    pooled = (counts[1] - counts[2]) / sum(counts)
    low, high = paired_interval(*counts)
    mean = fmean(values)
    return Estimate(
        mean=mean,
        interval=_widened(values, (pooled - low, high - pooled), same_problems, (-1.0, 1.0)),
        values=values,
    )


def _widened(values: Sequence[float], sides: Interval, same_problems: bool, bounds: Interval) -> Interval:
    """Return the t interval over seeds, at least the pooled ``sides``; in quadrature where seeds share problems."""
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * stdev(values) / sqrt(len(values))
    down, up = (sqrt(half**2 + side**2) if same_problems else max(half, side) for side in sides)
    mean = fmean(values)
    return (max(bounds[0], mean - down), min(bounds[1], mean + up))


def _won_and_lost(
    cell: Sequence[Mapping[str, bool]], baseline: Sequence[Mapping[str, bool]], *, same_problems: bool
) -> tuple[int, int]:
    """Count problems that the cell answered right more often than the baseline over all seeds, and less often."""
    balance: dict[tuple[int, str], int] = {}
    for seed, (ours, theirs) in enumerate(zip(cell, baseline, strict=True)):
        for name, right in ours.items():
            key = (0 if same_problems else seed, name)
            balance[key] = balance.get(key, 0) + int(right) - int(theirs[name])
    return sum(value > 0 for value in balance.values()), sum(value < 0 for value in balance.values())


def _p_seeds(values: Sequence[float]) -> float | None:
    """Return p of the two-sided t test that the mean difference is 0; None for equal differences without spread."""
    if len(values) < 2:
        return None
    if stdev(values) == 0:
        return 1.0 if values[0] == 0 else None
    return float(ttest_1samp(values, 0.0).pvalue)
