"""Rewards of answers, and advantages within a group. Paper, section 3.3: accuracy 1, format 0.1."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mirage_core.types import Variant

# The rule of EasyR1's maths reward; it leaves room for more than one think block, as interleaved answers have.
_REASONED = re.compile(r"<think>.*</think>.*\\boxed{.*}.*", re.DOTALL)
_BOXED = re.compile(r".*\\boxed{.*}.*", re.DOTALL)
# Advantages are divided by the spread of the group, which can be as small as one format reward among many.
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, slots=True)
class Reward:
    """What an answer earned: whether it is right, whether it is well formed, and the sum of both rewards."""

    correct: bool
    well_formed: bool
    total: float


def well_formed(output: str, variant: Variant) -> bool:
    r"""Whether the whole output has its form: reasoning in ``<think></think>``, then the answer in ``\boxed{}``.

    The direct variant has no reasoning to show: there the box is enough.
    """
    rule = _BOXED if variant == "direct" else _REASONED
    return rule.fullmatch(output.strip()) is not None


def reward(output: str, correct: bool, variant: Variant, *, accuracy_reward: float, format_reward: float) -> Reward:
    """The reward of one output: at most accuracy_reward + format_reward (1.1 in the paper)."""
    formed = well_formed(output, variant)
    return Reward(correct, formed, accuracy_reward * correct + format_reward * formed)


def group_advantages(rewards: Sequence[float]) -> list[float]:
    """Rewards of one prompt's answers less their mean, over their standard deviation (n - 1); all 0 without spread."""
    if is_silent(rewards):
        return [0.0] * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in rewards) / (len(rewards) - 1))
    return [(value - mean) / max(spread, _LEAST_SPREAD) for value in rewards]


def is_silent(rewards: Sequence[float]) -> bool:
    """Whether all answers of a group earned the same: it then says nothing about what is better."""
    return max(rewards) - min(rewards) < _LEAST_SPREAD
