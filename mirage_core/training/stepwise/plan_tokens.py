"""The tokens of a maze's plan: what direct SFT is held by, in the place of latents (``direct_sft.stepwise``).

The plan of a reasoning problem stands in its question, that of a planning problem in its answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from torch import Tensor

from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.errors import SettingsError
from mirage_core.types import Problem, TrainingExample

_BEFORE = {vsp_reasoning.NAME: r"Plan:\s*", vsp_planning.NAME: r"boxed\{\s*"}


@dataclass(frozen=True)
class PlanTokens:
    """Finds the token of each move: the one that its last letter is in."""

    examples: Sequence[TrainingExample]
    tokenizer: Any
    _found: dict[int, list[int]] = field(default_factory=dict, init=False)

    def columns(self, index: int, ids: Tensor) -> list[int]:
        """Return the columns of the moves of an example [moves], in its ``ids`` [T]; SettingsError without a plan.

        They are found once: an example has the same tokens in every epoch.
        """
        if index not in self._found:
            self._found[index] = self._find(index, ids)
        return self._found[index]

    def _find(self, index: int, ids: Tensor) -> list[int]:
        problem = self.examples[index].problem
        pieces = [self.tokenizer.decode([token]) for token in ids.tolist()]
        ends = list(accumulate(map(len, pieces)))
        found = plan_in("".join(pieces), problem)
        return [next(column for column, end in enumerate(ends) if end >= last) for last in found]


def plan_in(text: str, problem: Problem) -> list[int]:
    """Return where each move of a problem's plan ends in a text; SettingsError where the plan does not stand there."""
    moves = problem.facts.get("plan", problem.answer)
    if problem.benchmark in _BEFORE:
        plan = r"[\s,]*".join(f"({vsp_reasoning.WORDS[move]}|{move})" for move in moves)
        matches = list(re.finditer(_BEFORE[problem.benchmark] + plan, text))
        if matches:
            return [matches[-1].end(number) for number in range(1, len(moves) + 1)]
    raise SettingsError(
        f"direct_sft.stepwise holds the tokens of a plan, and none was found in the text of problem {problem.id} "
        f"({problem.benchmark}): it is for VSP planning with direct chains and VSP reasoning; set it to null"
    )
