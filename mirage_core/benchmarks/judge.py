"""The one judge of predictions: a benchmark's own scorer, under the rule that was chosen where it knows that rule."""

from __future__ import annotations

from collections.abc import Callable

from mirage_core.benchmarks import get
from mirage_core.types import Prediction, Problem, Score

Scorer = Callable[[Problem, Prediction, str], Score]
"""Judges a prediction under a planning rule: ``judge``, or what stands in for it in a test."""


def judge(problem: Problem, prediction: Prediction, planning_rule: str) -> Score:
    """Score a prediction by its benchmark; a benchmark without ``planning_rule`` uses its first rule."""
    benchmark = get(problem.benchmark)
    rule = planning_rule if planning_rule in benchmark.rules else benchmark.rules[0]
    return benchmark.score(problem, prediction.output, rule=rule)
