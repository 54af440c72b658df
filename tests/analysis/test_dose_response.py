"""Dose and response: falls are found and placed, flat lines are not called falls."""

from __future__ import annotations

import numpy as np
import pytest

from mirage_core.analysis.measures.interventions import fit_falling, half_scale, rank_correlation, trend_p
from mirage_core.errors import InputError

SCALES = (0.0, 0.5, 1.0, 2.0, 4.0)


def answers(chances: tuple[float, ...], seed: int = 0) -> np.ndarray:
    """Answers of 200 instances, right by these chances at each scale."""
    return np.random.default_rng(seed).random((200, len(chances))) < np.array(chances)


def test_a_fall_is_found_and_half_of_it_placed_between_two_scales() -> None:
    accuracy = np.array([0.9, 0.9, 0.5, 0.1, 0.1])
    assert half_scale(SCALES, fit_falling(accuracy)) == pytest.approx(1.0)
    assert half_scale(SCALES, fit_falling(np.array([0.8, 0.8, 0.8, 0.8, 0.0]))) == pytest.approx(3.0)
    assert rank_correlation(SCALES, np.array([0.9, 0.8, 0.5, 0.2, 0.1])) == pytest.approx(-1)


def test_a_rise_is_fitted_flat_and_a_flat_line_has_no_half() -> None:
    assert fit_falling(np.array([0.5, 0.7])).tolist() == pytest.approx([0.6, 0.6])
    assert half_scale(SCALES, fit_falling(np.full(5, 1 / 11))) is None
    assert rank_correlation(SCALES, np.full(5, 0.4)) is None


def test_the_trend_is_clear_where_answers_fall_and_not_where_they_do_not() -> None:
    falls = trend_p(answers((0.9, 0.8, 0.6, 0.4, 0.2)))
    assert falls is not None and falls < 1e-6
    flat = [trend_p(answers((0.6,) * 5, seed)) for seed in range(200)]
    assert np.mean([p is not None and p < 0.05 for p in flat]) == pytest.approx(0.05, abs=0.035)
    rises = trend_p(answers((0.2, 0.4, 0.6, 0.8, 0.9)))
    assert rises is not None and rises > 0.5


def test_instances_that_never_change_do_not_weaken_the_trend() -> None:
    changing = answers((0.7, 0.6, 0.5, 0.4, 0.3))
    settled = np.concatenate([changing, np.ones((500, 5), dtype=bool)])
    assert trend_p(settled) == trend_p(changing)


def test_questions_on_one_picture_are_one_observation_of_the_trend() -> None:
    """Five equal answers a picture: the trend is as clear as that of the pictures, and chance stays chance."""
    units = np.repeat(np.arange(200), 5)
    correct = answers((0.6, 0.58, 0.56, 0.54, 0.52))
    assert trend_p(correct[units], units) == trend_p(correct)
    by_question = trend_p(correct[units])
    assert by_question is not None and by_question < 0.2 * (trend_p(correct) or 0)
    flat = [trend_p(answers((0.6,) * 5, seed)[units], units) for seed in range(200)]
    assert np.mean([p is not None and p < 0.05 for p in flat]) == pytest.approx(0.05, abs=0.035)
    assert trend_p(answers((0.9, 0.6, 0.1, 0.1, 0.1)), np.zeros(200, dtype=np.int64)) is None  # one picture


def test_answers_that_never_change_show_no_trend_and_two_scales_none_at_all() -> None:
    assert trend_p(np.ones((10, 4), dtype=bool)) == 1.0
    assert trend_p(np.ones((10, 2), dtype=bool)) is None


def test_scales_and_accuracies_of_different_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="5 scales for 2 accuracies"):
        half_scale(SCALES, np.array([1.0, 0.5]))
