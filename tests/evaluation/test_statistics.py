"""Intervals, the paired test and Holm's correction, against published values and values worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.errors import InputError
from mirage_core.evaluation.statistics import EXACT_UP_TO, exact_p, holm, mcnemar, mcnemar_p, paired_interval, wilson


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


@pytest.mark.parametrize(("only_first", "only_second"), [(470, 531), (520, 481), (401, 600), (1001, 0), (501, 500)])
def test_beyond_a_thousand_discordant_pairs_the_approximation_is_the_exact_test(
    only_first: int, only_second: int
) -> None:
    assert only_first + only_second > EXACT_UP_TO
    assert mcnemar_p(only_first, only_second) == pytest.approx(exact_p(only_first, only_second), abs=1e-4)


def test_with_few_discordant_pairs_the_test_is_exact() -> None:
    assert mcnemar_p(1, 9) == exact_p(1, 9) != pytest.approx(0.0269, abs=1e-3)  # 0.0269: what chi-squared would say


@pytest.mark.parametrize(
    ("cells", "interval"),
    [
        # Newcombe (1998), table II, method 10: e=20, f=12, g=2, h=16
        ((20, 12, 2, 16), (0.0562, 0.3292)),
        # Fagerland, Lydersen, Laake (2017), chapter 8, airway hyper-responsiveness (Bentur 2009)
        ((1, 1, 7, 12), (-0.507, -0.026)),
    ],
)
def test_the_interval_of_a_paired_difference_is_the_published_one(
    cells: tuple[int, int, int, int], interval: tuple[float, float]
) -> None:
    assert paired_interval(*cells) == pytest.approx(interval, abs=5e-4)


def test_without_a_discordant_pair_the_difference_still_has_an_interval_round_zero() -> None:
    low, high = paired_interval(50, 0, 0, 50)
    assert low == pytest.approx(-high)
    assert 0 < high < 0.1


@given(st.tuples(*[st.integers(0, 300)] * 4).filter(any))
def test_the_interval_holds_the_difference_and_turns_round_with_the_two_methods(cells: tuple[int, ...]) -> None:
    both, first, second, neither = cells
    low, high = paired_interval(both, first, second, neither)
    turned = paired_interval(both, second, first, neither)
    assert -1 <= low <= (first - second) / sum(cells) + 1e-12
    assert (first - second) / sum(cells) - 1e-12 <= high <= 1
    assert (-turned[1], -turned[0]) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_corrects_for_the_number_of_tests_in_their_own_order(
    p_values: list[float], corrected: list[float]
) -> None:
    assert holm(p_values) == pytest.approx(corrected)
