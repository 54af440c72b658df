"""Intervals that hold what they should as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from mirage_core.analysis.bootstrap import bootstrap_mean, check_rows, jackknife, share
from mirage_core.errors import InputError


def test_bootstrap_intervals_of_a_mean_hold_it_about_as_often_as_they_say() -> None:
    covered = 0
    for seed in range(200):
        estimate = bootstrap_mean(np.random.default_rng(seed).normal(3, 2, size=60), 300, seed)
        assert estimate.low is not None and estimate.high is not None
        covered += estimate.low <= 3 <= estimate.high
    assert 0.88 <= covered / 200 <= 0.99


def test_jackknife_intervals_hold_the_figure_of_the_whole() -> None:
    covered = 0
    for seed in range(200):
        drawn = np.random.default_rng(seed).normal(0, 2, size=120)
        estimate = jackknife(lambda subset, drawn=drawn: float(np.exp(drawn[subset].mean() / 4)), 120, seed)
        assert estimate.low is not None and estimate.high is not None
        covered += estimate.low <= 1 <= estimate.high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval_and_unknown_values_are_left_out() -> None:
    values = np.array([1.0, 2, np.nan, 4])
    first = bootstrap_mean(values, 100, 5)
    assert first == bootstrap_mean(values, 100, 5) and first.n == 3 and first.value == pytest.approx(7 / 3)


def test_nothing_to_count_is_none_and_not_zero() -> None:
    assert bootstrap_mean(np.array([np.nan]), 10, 0).value is None
    assert share([]).value is None and share([]).n == 0
    assert jackknife(lambda subset: 1.0, 1, 0).value is None


def test_arrays_of_different_instances_are_refused() -> None:
    with pytest.raises(InputError, match=r"arrays of \[2, 3\] instances"):
        check_rows(np.zeros(2), np.zeros(3))
