"""Statistics of comparisons: intervals of a share and of a paired difference, McNemar's test, Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, erfc, sqrt

from mirage_core.errors import InputError

Z_95 = 1.959963984540054
# Up to so many discordant pairs McNemar's test is exact, in integers; beyond, the approximation differs by less than
# 0.0001 and is much faster.
EXACT_UP_TO = 1000


def wilson(successes: float, n: float, z: float = Z_95) -> tuple[float, float]:
    """Return the Wilson score interval of a share; (0, 1) without observations.

    ``successes`` may be fractional: with several samples a problem it is the sum of the problems' shares; ``n`` too, if
    counts are means over repeats.
    """
    if n < 0 or successes < 0 or successes > n + 1e-9:
        raise InputError(f"wilson needs 0 <= successes <= n, got successes={successes}, n={n}")
    if n == 0:
        return (0.0, 1.0)
    share = min(successes / n, 1.0)
    centre = share + z * z / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the bound is exactly 0 or 1; rounding must not change that.
    low = 0.0 if share == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if share == 1 else min(1.0, (centre + half) / scale)
    return (low, high)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """McNemar's test on problems that two methods answered: counts of who was right, and the two-sided p-value."""

    first: str
    second: str
    n: int
    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float

    @property
    def first_accuracy(self) -> float:
        """Accuracy of the first method; ZeroDivisionError without problems."""
        return (self.both + self.only_first) / self.n

    @property
    def second_accuracy(self) -> float:
        """Accuracy of the second method; ZeroDivisionError without problems."""
        return (self.both + self.only_second) / self.n

    @property
    def difference(self) -> float:
        """Accuracy of the first method minus that of the second."""
        return (self.only_first - self.only_second) / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference."""
        return paired_interval(self.both, self.only_first, self.only_second, self.neither)


def exact_p(only_first: int, only_second: int) -> float:
    """Return the two-sided exact binomial p-value that the discordant pairs fall evenly."""
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    tail = sum(comb(discordant, i) for i in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**discordant)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's test: exact for up to EXACT_UP_TO discordant pairs.

    Beyond, chi-squared with one degree of freedom and Edwards' continuity correction: McNemar, Psychometrika 12
    (1947) 153-157; Edwards, Psychometrika 13 (1948) 185-187.
    """
    discordant = only_first + only_second
    if discordant <= EXACT_UP_TO:
        return exact_p(only_first, only_second)
    corrected = max(0, abs(only_first - only_second) - 1)
    return erfc(corrected / sqrt(2 * discordant))  # the upper tail of chi-squared(1) at corrected^2 / discordant


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number, in the same order: Holm, Scand. J. Statist. 6 (1979) 65-70."""
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[at]))
        corrected[at] = largest
    return corrected


def paired_interval(
    both: float, only_first: float, only_second: float, neither: float, z: float = Z_95
) -> tuple[float, float]:
    """Return the interval of the first share minus the second, both of the same problems; (-1, 1) without problems.

    Counts may be fractional, where they are means over repeats.

    Newcombe's method 10 (Statist. Med. 17 (1998) 2635-2650): the Wilson intervals of the two shares, combined with
    their correlation.
    """
    n = both + only_first + only_second + neither
    if n == 0:
        return (-1.0, 1.0)
    first, second = (both + only_first) / n, (both + only_second) / n
    (low_1, high_1), (low_2, high_2) = wilson(both + only_first, n, z), wilson(both + only_second, n, z)
    phi = _correlation(both, only_first, only_second, neither)
    down, up = (first - low_1, high_2 - second), (high_1 - first, second - low_2)
    difference = (only_first - only_second) / n
    return (max(-1.0, difference - _combined(*down, phi)), min(1.0, difference + _combined(*up, phi)))


def _combined(first: float, second: float, phi: float) -> float:
    """Combine two distances whose correlation is ``phi``."""
    return sqrt(max(0.0, first * first - 2 * phi * first * second + second * second))


def _correlation(both: float, only_first: float, only_second: float, neither: float) -> float:
    """Newcombe's phi: a positive association shrinks by his continuity correction; 0 where a margin is empty."""
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if margins == 0:
        return 0.0
    association: float = both * neither - only_first * only_second
    if association > 0:
        association = max(0.0, association - (both + only_first + only_second + neither) / 2)
    return association / sqrt(margins)


def mcnemar(first: str, first_right: dict[str, bool], second: str, second_right: dict[str, bool]) -> PairedTest:
    """Compare two methods on the same problems; the keys are problem ids and must agree.

    Raises:
        InputError: the two methods did not answer the same problems.
    """
    if first_right.keys() != second_right.keys():
        odd = sorted(first_right.keys() ^ second_right.keys())
        raise InputError(
            f"a paired test needs the same problems: {first} and {second} differ in {len(odd)} ({odd[0]!r} is one); "
            "evaluate both on one problem file"
        )
    pairs = [(right, second_right[key]) for key, right in first_right.items()]
    only_first = sum(a and not b for a, b in pairs)
    only_second = sum(b and not a for a, b in pairs)
    both = sum(a and b for a, b in pairs)
    return PairedTest(
        first=first,
        second=second,
        n=len(pairs),
        both=both,
        only_first=only_first,
        only_second=only_second,
        neither=len(pairs) - both - only_first - only_second,
        p_value=mcnemar_p(only_first, only_second),
    )
