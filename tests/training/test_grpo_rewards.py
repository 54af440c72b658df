"""Rewards and advantages: the paper's values, and groups that say nothing."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mirage_core.config import GRPOSettings
from mirage_core.errors import InputError
from mirage_core.training.grpo.rewards import (
    Reward,
    accuracy_reward,
    format_reward,
    group_advantages,
    has_zero_variance,
    is_learned_from,
    make_reward,
    reward_std,
    well_formed,
)

INTERLEAVED = "<think>I see\na map</think><latents:4><think>so, right</think>The answer is \\boxed{R}."


@pytest.mark.parametrize(
    ("output", "formed"),
    [
        ("<think>a</think>\\boxed{R}", True),
        (INTERLEAVED, True),
        ("<latents:4><think>a</think>\\boxed{R}", False),
        ("<think>a</think>R", False),
        ("\\boxed{R}<think>a</think>", False),
        ("\\boxed{R}", False),
        ("", False),
        ("<think>a</think>\\boxed{}", False),
        ("<think>a</think>\\boxed{ }", False),
        ("<think>a</think>\\boxed{...}", False),
        ("<think>a</think>\\boxed{\\text{ }}", False),
        ("<think>a</think>\\boxed{$$}", False),
        ("<think>a</think>\\boxed{R", False),
        ("<think>a</think>\\boxed{R} or \\boxed{}", False),
        ("<think>a \\boxed{R}</think>so R", False),
        ("<think>a</think>\\boxed{\\text{R}}", True),
        ("<think>a</think>\\boxed{\u2192}", True),
        ("<think>a</think>\\boxed{\\frac{1}{2}}", True),
    ],
)
def test_a_chain_must_reason_before_its_box(output: str, formed: bool) -> None:
    assert well_formed(output, "cot") is formed


def test_a_direct_answer_needs_only_its_box() -> None:
    assert well_formed("<latents:4>\\boxed{RRD}", "direct")
    assert not well_formed("RRD", "direct")
    assert not well_formed("\\boxed{}", "direct")


@pytest.mark.parametrize("output", ["<think>" + "\\boxed{" * 120_000, "</think>" * 120_000, "\\boxed{}" * 120_000])
def test_the_form_of_a_megabyte_is_read_in_linear_time(output: str) -> None:
    begun = time.process_time()
    assert not well_formed(output, "cot")
    assert time.process_time() - begun < 2.0


def test_a_box_that_the_scorer_cannot_read_earns_nothing_for_its_form() -> None:
    found = make_reward("<think>a</think>\\boxed{banana}", False, "cot", parsed=False)
    assert (found.total, found.well_formed) == (0.0, False)
    assert make_reward(INTERLEAVED, False, "cot", parsed=True).total == 0.1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("divide_by", ["std", "mean"])
def test_a_reward_that_is_no_number_is_refused(bad: float, divide_by: Any) -> None:
    with pytest.raises(InputError, match="finite"):
        group_advantages([0.0, bad, 1.0], divide_by)
    for name in ("accuracy_reward", "format_reward"):
        with pytest.raises(ValidationError, match=name):
            GRPOSettings.model_validate({name: bad})


def test_advantages_are_in_units_of_the_groups_deviation_by_default() -> None:
    assert group_advantages([1.0, 0.0]) == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5)])
    assert group_advantages([0.1, 0.0, 0.0, 0.0]) == pytest.approx([1.5, -0.5, -0.5, -0.5])


@pytest.mark.parametrize(
    ("output", "correct", "total"),
    [(INTERLEAVED, True, 1.1), (INTERLEAVED, False, 0.1), ("R", True, 1.0), ("R", False, 0.0)],
)
def test_the_rewards_are_the_papers(output: str, correct: bool, total: float) -> None:
    found = make_reward(output, correct, "cot")
    assert found.total == pytest.approx(total)
    assert (found.accuracy, found.format) == (accuracy_reward(correct), format_reward(output, "cot"))


def test_the_values_of_a_recipe_take_the_place_of_the_papers() -> None:
    found = make_reward(INTERLEAVED, True, "cot", accuracy_value=2.0, format_value=0.5)
    assert (found.accuracy, found.format, found.total) == (2.0, 0.5, 2.5)


@given(st.lists(st.sampled_from([0.0, 0.1, 1.0, 1.1]), min_size=2, max_size=12))
def test_advantages_have_mean_zero_and_unit_spread_or_are_all_zero(rewards: list[float]) -> None:
    advantages = group_advantages(rewards)
    assert math.fsum(advantages) == pytest.approx(0.0, abs=1e-9)
    if has_zero_variance(rewards):
        assert advantages == [0.0] * len(rewards)
    else:
        assert math.fsum(value**2 for value in advantages) / (len(rewards) - 1) == pytest.approx(1.0)


@given(st.lists(st.sampled_from([0.0, 0.1, 1.0, 1.1]), min_size=2, max_size=12))
def test_undivided_advantages_are_the_divided_ones_times_the_spread(rewards: list[float]) -> None:
    plain, divided = group_advantages(rewards, "mean"), group_advantages(rewards, "std")
    assert plain == pytest.approx([value * reward_std(rewards) for value in divided], abs=1e-9)


def earned(*correct: bool) -> list[Reward]:
    return [Reward(accuracy=float(right), format=0.0, correct=right, well_formed=False) for right in correct]


@pytest.mark.parametrize(
    ("correct", "zero_variance_groups", "accuracy", "learned"),
    [
        ((True, False), "drop", None, True),
        ((True, True), "keep", None, True),
        ((True, True), "drop", None, False),
        ((False, False), "redraw", None, False),
        ((False, False, False), "keep", (0.0, 0.6), False),
        ((True, False, False), "keep", (0.0, 0.6), True),
        ((True, True, False), "keep", (0.0, 0.6), False),
        ((True, True, False), "drop", (0.0, 1.0), True),
        ((True, True, True), "drop", (0.0, 1.0), False),
    ],
)
def test_groups_that_teach_nothing_are_recognised(
    correct: tuple[bool, ...], zero_variance_groups: Any, accuracy: tuple[float, float] | None, learned: bool
) -> None:
    settings = GRPOSettings(zero_variance_groups=zero_variance_groups, accuracy_filter=accuracy)
    assert is_learned_from(earned(*correct), settings) is learned
