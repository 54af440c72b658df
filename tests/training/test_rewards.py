"""Rewards and advantages: the paper's values, and groups that say nothing."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.training.rewards import group_advantages, is_silent, reward, well_formed

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
    ],
)
def test_a_chain_must_reason_before_its_box(output: str, formed: bool) -> None:
    assert well_formed(output, "cot") is formed


def test_a_direct_answer_needs_only_its_box() -> None:
    assert well_formed("<latents:4>\\boxed{RRD}", "direct")
    assert not well_formed("RRD", "direct")


@pytest.mark.parametrize(
    ("output", "correct", "total"),
    [(INTERLEAVED, True, 1.1), (INTERLEAVED, False, 0.1), ("R", True, 1.0), ("R", False, 0.0)],
)
def test_the_rewards_are_the_papers(output: str, correct: bool, total: float) -> None:
    assert reward(output, correct, "cot", accuracy_reward=1.0, format_reward=0.1).total == pytest.approx(total)


@given(st.lists(st.sampled_from([0.0, 0.1, 1.0, 1.1]), min_size=2, max_size=12))
def test_advantages_have_mean_zero_and_unit_spread_or_are_all_zero(rewards: list[float]) -> None:
    advantages = group_advantages(rewards)
    assert math.fsum(advantages) == pytest.approx(0.0, abs=1e-9)
    if is_silent(rewards):
        assert advantages == [0.0] * len(rewards)
    else:
        assert math.fsum(value**2 for value in advantages) / (len(rewards) - 1) == pytest.approx(1.0)
