"""Means, intervals and tests over seeds, against figures worked out by hand."""

from __future__ import annotations

import pytest

from mirage_core.errors import InputError
from mirage_core.evaluation.statistics import wilson
from mirage_core.reports.study.seeds import compare, share

T_2 = 4.302652729911275  # the 97.5 % point of t with 2 degrees of freedom


def answers(right: str) -> dict[str, bool]:
    return {str(number): mark == "1" for number, mark in enumerate(right)}


def test_one_seed_has_wilsons_interval() -> None:
    result = share([60.0], [100], same_problems=False)

    assert result.mean == 0.6 and result.spread == 0.0
    assert result.interval == wilson(60, 100)


def test_several_seeds_have_the_t_interval_of_their_values() -> None:
    """Values 0.5, 0.6, 0.7: standard deviation 0.1, half width t * 0.1 / sqrt(3) = 0.2484."""
    result = share([50, 60, 70], [100, 100, 100], same_problems=False)

    assert result.mean == pytest.approx(0.6)
    assert result.spread == pytest.approx(0.1)
    assert result.interval == pytest.approx((0.6 - T_2 * 0.1 / 3**0.5, 0.6 + T_2 * 0.1 / 3**0.5))
    assert result.interval[0] == pytest.approx(0.351586, abs=1e-6)


def test_seeds_that_agree_by_chance_are_no_surer_than_all_their_answers() -> None:
    """60 of 100 pooled: Wilson's 0.5020 to 0.6906."""
    result = share([30, 30], [50, 50], same_problems=False)

    assert result.interval == pytest.approx((0.50200, 0.69060), abs=1e-5)


def test_seeds_that_share_their_problems_add_both_widths_in_squares() -> None:
    """Down: sqrt(0.24841^2 + 0.09800^2) = 0.26705; up: sqrt(0.24841^2 + 0.09060^2) = 0.26442."""
    result = share([50, 60, 70], [100, 100, 100], same_problems=True)

    assert result.interval == pytest.approx((0.33295, 0.86442), abs=1e-5)


def test_one_seeds_comparison_is_mcnemars_test_with_newcombes_interval() -> None:
    """6 won, 1 lost: 2 * (1 + 7) / 2^7 = 0.125."""
    result = compare([answers("1111110000")], [answers("0000001000")], same_problems=False)

    (test,) = result.tests
    assert (test.only_first, test.only_second, test.both, test.neither) == (6, 1, 0, 3)
    assert result.difference.mean == 0.5
    assert result.difference.interval == test.interval
    assert result.p_problems == 0.125
    assert result.p_seeds is None


def test_over_seeds_the_problems_of_all_are_one_sign_test() -> None:
    """Won 2 + 4, lost 0 + 1: the same 0.125."""
    ours = [answers("1100000000"), answers("1111000000")]
    theirs = [answers("0000000000"), answers("0000100000")]
    result = compare(ours, theirs, same_problems=False)

    assert result.difference.values == pytest.approx((0.2, 0.3))
    assert result.p_problems == 0.125


def test_a_shared_problem_counts_once_over_the_seeds() -> None:
    """Problem 0 is won twice, problem 1 won and lost, problem 2 lost once: 1 to 1."""
    ours = [answers("110"), answers("100")]
    theirs = [answers("000"), answers("011")]
    result = compare(ours, theirs, same_problems=True)

    assert result.p_problems == 1.0
    assert compare(ours, theirs, same_problems=False).p_problems == 1.0
    assert compare([answers("110"), answers("110")], [answers("000")] * 2, same_problems=True).p_problems == 0.5
    assert compare([answers("110"), answers("110")], [answers("000")] * 2, same_problems=False).p_problems == 0.125


def test_training_anew_is_tested_by_the_seeds_differences() -> None:
    """Differences 0.1, 0.2, 0.3: t = 0.2 / (0.1 / sqrt(3)) = 3.4641, p = 1 - t / sqrt(t^2 + 2) = 0.0742."""
    ours = [answers("1" * k + "0" * (10 - k)) for k in (1, 2, 3)]
    result = compare(ours, [answers("0" * 10)] * 3, same_problems=False)

    assert result.p_seeds == pytest.approx(1 - 12**0.5 / 14**0.5, abs=1e-9)
    half = T_2 * 0.1 / 3**0.5
    assert result.difference.interval == pytest.approx((0.2 - half, 0.2 + half), abs=1e-6)


def test_equal_differences_leave_no_spread_to_test_by() -> None:
    assert compare([answers("10")] * 2, [answers("00")] * 2, same_problems=False).p_seeds is None
    assert compare([answers("10")] * 2, [answers("10")] * 2, same_problems=False).p_seeds == 1.0


def test_no_problems_and_other_problems_are_refused() -> None:
    with pytest.raises(InputError, match="needs problems under every seed"):
        share([0.0], [0], same_problems=False)
    with pytest.raises(InputError, match="the same problems"):
        compare([answers("10")], [answers("100")], same_problems=False)
