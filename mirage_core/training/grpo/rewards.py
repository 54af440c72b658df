"""Rewards of answers, and advantages within a group. Paper, section 3.3: accuracy 1, format 0.1."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mirage_core.benchmarks.answer_parsing import boxed, without_dress
from mirage_core.config import GRPOSettings
from mirage_core.errors import InputError
from mirage_core.types import Variant

# Advantages are divided by the standard deviation of the group, which can be that of one format reward among many.
_MIN_STD = 1e-6


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of an answer, part by part: for being right, and for its form."""

    accuracy: float
    format: float
    correct: bool
    well_formed: bool

    @property
    def total(self) -> float:
        """The sum of the parts."""
        return self.accuracy + self.format


def accuracy_reward(correct: bool, value: float = 1.0) -> float:
    """Return ``value`` for a right answer, else 0."""
    return value if correct else 0.0


def format_reward(output: str, variant: Variant, value: float = 0.1) -> float:
    """Return ``value`` for a well-formed output, else 0."""
    return value if well_formed(output, variant) else 0.0


def well_formed(output: str, variant: Variant) -> bool:
    r"""Whether the whole output has its form: reasoning in ``<think></think>``, then the answer in ``\boxed{}``.

    The rule of EasyR1's maths reward, which leaves room for more than one think block, as interleaved answers have; but
    the box must come after the reasoning and hold a letter, a digit or a symbol: an empty one is no answer. The direct
    variant has no reasoning: there the box is enough. Linear in the output.
    """
    reasoning, closed, answer = output.strip().rpartition("</think>")
    if variant != "direct" and not (closed and reasoning.startswith("<think>")):
        return False
    content = boxed(answer)
    return content is not None and any(unicodedata.category(char)[0] in "LNS" for char in without_dress(content))


def make_reward(
    output: str,
    correct: bool,
    variant: Variant,
    *,
    accuracy_value: float = 1.0,
    format_value: float = 0.1,
    parsed: bool = True,
) -> Reward:
    """Return the reward of an output: at most the sum of both values (1.1 in the paper).

    ``parsed``: whether the scorer could read an answer. A box that it cannot read is nonsense, and earns nothing for
    its form.
    """
    formed = (parsed or correct) and well_formed(output, variant)
    return Reward(
        accuracy=accuracy_reward(correct, accuracy_value),
        format=format_value if formed else 0.0,
        correct=correct,
        well_formed=formed,
    )


def group_advantages(rewards: Sequence[float], divide_by: Literal["std", "mean"] = "std") -> list[float]:
    """Return the rewards of one prompt's answers minus their mean; all 0 where they are equal.

    "std": over their standard deviation (n - 1), as GRPO was published. "mean": not divided, so that groups that
    hardly differ weigh little (arXiv 2503.20783). InputError for a reward that is not finite: it would make the whole
    group's advantages NaN.
    """
    if not all(map(math.isfinite, rewards)):
        raise InputError(f"a group has the rewards {list(rewards)}, expected finite numbers: correct the scorer")
    if has_zero_variance(rewards):
        return [0.0] * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    centred = [value - mean for value in rewards]
    return centred if divide_by == "mean" else [value / max(reward_std(rewards), _MIN_STD) for value in centred]


def reward_std(rewards: Sequence[float]) -> float:
    """Return the standard deviation (n - 1) of a group's rewards; 0 for a single one."""
    if len(rewards) < 2:
        return 0.0
    mean = math.fsum(rewards) / len(rewards)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in rewards) / (len(rewards) - 1))


def has_zero_variance(rewards: Sequence[float]) -> bool:
    """Whether all answers of a group have the same reward: then nothing can be learned from it."""
    return max(rewards) - min(rewards) < _MIN_STD


def is_learned_from(rewards: Sequence[Reward], settings: GRPOSettings) -> bool:
    """Whether a group is learned from, by ``zero_variance_groups`` and ``accuracy_filter`` of the settings.

    The share of right answers must be above the filter's first number and at most the second.
    """
    if settings.accuracy_filter is not None:
        low, high = settings.accuracy_filter
        if not low < sum(reward.correct for reward in rewards) / len(rewards) <= high:
            return False
    return settings.zero_variance_groups == "keep" or not has_zero_variance([reward.total for reward in rewards])
