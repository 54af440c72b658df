"""The verdict on one prediction: by its benchmark, under the rule that was asked for where it has that one."""

from __future__ import annotations

from mirage_core.benchmarks import get
from mirage_core.types import Prediction, Problem, Score


def judge(problem: Problem, prediction: Prediction, planning_rule: str) -> Score:
    """Score a prediction by its benchmark's rule; ``planning_rule`` is heeded where a benchmark has that choice."""
    benchmark = get(problem.benchmark)
    rule = planning_rule if planning_rule in benchmark.rules else benchmark.rules[0]
    return benchmark.score(problem, prediction.output, rule=rule)
