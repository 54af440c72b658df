"""Rewards of answers, and advantages within a group. Paper, section 3.3: accuracy 1, format 0.1."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mirage_core.types import Variant

# The rule of EasyR1's maths reward; it leaves room for more than one think block, as interleaved answers have.
_REASONED = re.compile(r"<think>.*</think>.*\\boxed{.*}.*", re.DOTALL)
_BOXED = re.compile(r".*\\boxed{.*}.*", re.DOTALL)
# Advantages are divided by the spread of the group, which can be as small as one format reward among many.
_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, slots=True)
class Reward:
    """What an answer earned, part by part: for being right, and for its form."""

    accuracy: float
    format: float
    correct: bool
    well_formed: bool

    @property
    def total(self) -> float:
        """What the policy is to raise: the sum of the parts."""
        return self.accuracy + self.format


def accuracy_reward(correct: bool, value: float = 1.0) -> float:
    """``value`` for a right answer, else 0."""
    return value if correct else 0.0


def format_reward(output: str, variant: Variant, value: float = 0.1) -> float:
    """``value`` for a well-formed output, else 0."""
    return value if well_formed(output, variant) else 0.0


def well_formed(output: str, variant: Variant) -> bool:
    r"""Whether the whole output has its form: reasoning in ``<think></think>``, then the answer in ``\boxed{}``.

    The direct variant has no reasoning to show: there the box is enough.
    """
    rule = _BOXED if variant == "direct" else _REASONED
    return rule.fullmatch(output.strip()) is not None


def reward(
    output: str, correct: bool, variant: Variant, *, accuracy_value: float = 1.0, format_value: float = 0.1
) -> Reward:
    """The reward of one output: at most the sum of both values (1.1 in the paper)."""
    return Reward(
        accuracy=accuracy_reward(correct, accuracy_value),
        format=format_reward(output, variant, format_value),
        correct=correct,
        well_formed=well_formed(output, variant),
    )


def group_advantages(rewards: Sequence[float], divide_by: Literal["std", "mean"] = "std") -> list[float]:
    """Rewards of one prompt's answers less their mean; all 0 where they are equal.

    "std": over their standard deviation (n - 1), as GRPO was published. "mean": not divided, so that groups that
    hardly differ weigh little (arXiv 2503.20783).
    """
    if is_silent(rewards):
        return [0.0] * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    centred = [value - mean for value in rewards]
    return centred if divide_by == "mean" else [value / max(spread(rewards), _LEAST_SPREAD) for value in centred]


def spread(rewards: Sequence[float]) -> float:
    """The standard deviation (n - 1) of a group's rewards; 0 for a single one."""
    if len(rewards) < 2:
        return 0.0
    mean = math.fsum(rewards) / len(rewards)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in rewards) / (len(rewards) - 1))


def is_silent(rewards: Sequence[float]) -> bool:
    """Whether all answers of a group earned the same: it then says nothing about what is better."""
    return max(rewards) - min(rewards) < _LEAST_SPREAD


def teaches(
    rewards: Sequence[Reward],
    silent_groups: Literal["keep", "drop", "redraw"],
    accuracy: tuple[float, float] | None,
) -> bool:
    """Whether a group is learned from, by ``grpo.silent_groups`` and ``grpo.group_accuracy``.

    ``accuracy``: the share of right answers must be above the first and at most the second.
    """
    if accuracy is not None:
        share = sum(one.correct for one in rewards) / len(rewards)
        if not accuracy[0] < share <= accuracy[1]:
            return False
    return silent_groups == "keep" or not is_silent([one.total for one in rewards])
