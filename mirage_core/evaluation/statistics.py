"""The two pieces of statistics a comparison needs: an interval for a share, a paired test for two methods."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, sqrt

from mirage_core.errors import InputError

Z_95 = 1.959963984540054


def wilson(successes: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """Return the Wilson score interval of a share, (0, 1) when nothing was observed.

    ``successes`` may be fractional: with several samples a problem it is the sum of the problems' shares.
    """
    if n < 0 or successes < 0 or successes > n + 1e-9:
        raise InputError(f"wilson needs 0 <= successes <= n, got successes={successes}, n={n}")
    if n == 0:
        return (0.0, 1.0)
    share = min(successes / n, 1.0)
    centre = share + z * z / (2 * n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the ends the bound is exact in theory; rounding must not move it off 0 or 1.
    low = 0.0 if share == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if share == 1 else min(1.0, (centre + half) / scale)
    return (low, high)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """McNemar's exact test on problems both methods answered: who alone was right, and the two-sided p."""

    first: str
    second: str
    n: int
    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float

    @property
    def difference(self) -> float:
        """Accuracy of the first method minus that of the second."""
        return (self.only_first - self.only_second) / self.n if self.n else 0.0


def exact_p(only_first: int, only_second: int) -> float:
    """Return the two-sided exact binomial p-value that the discordant pairs fall evenly."""
    discordant = only_first + only_second
    if discordant == 0:
        return 1.0
    tail = sum(comb(discordant, i) for i in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**discordant)


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
        p_value=exact_p(only_first, only_second),
    )
