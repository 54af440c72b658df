"""The interval and the paired test, against values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.errors import InputError
from mirage_core.evaluation.statistics import exact_p, mcnemar, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # centre (p + z^2/2n) / (1 + z^2/n), half width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n), z = 1.96
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 2, 0.0945, 0.9055),
        (240, 300, 0.7511, 0.8413),
    ],
)
def test_the_wilson_interval_is_the_textbooks(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_nothing_observed_leaves_everything_possible() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_more_successes_than_problems_are_refused() -> None:
    with pytest.raises(InputError, match="successes=3, n=2"):
        wilson(3, 2)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_share_and_mirrors_it(counts: tuple[int, int]) -> None:
    successes, n = counts
    low, high = wilson(successes, n)
    mirrored = wilson(n - successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (1, 9, 2 * (1 + 10) / 1024),
        (9, 1, 2 * (1 + 10) / 1024),
        (0, 6, 2 / 64),
    ],
)
def test_mcnemar_is_the_exact_binomial_test_of_discordant_pairs(only_first: int, only_second: int, p: float) -> None:
    assert exact_p(only_first, only_second) == pytest.approx(p)


def test_a_paired_test_counts_the_four_cells() -> None:
    first = {"a": True, "b": True, "c": False, "d": False, "e": True}
    second = {"a": True, "b": False, "c": True, "d": False, "e": False}
    test = mcnemar("x", first, "y", second)
    assert (test.both, test.only_first, test.only_second, test.neither, test.n) == (1, 2, 1, 1, 5)
    assert test.difference == pytest.approx(0.2)
    assert test.p_value == 1.0


def test_methods_that_answered_other_problems_are_not_compared() -> None:
    with pytest.raises(InputError, match="'b' is one"):
        mcnemar("x", {"a": True, "b": True}, "y", {"a": True})
