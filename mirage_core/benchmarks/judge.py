"""The one judge of predictions: a benchmark's own scorer, under the rule that was chosen where it knows that rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mirage_core.benchmarks import OFFICIAL, get
from mirage_core.types import Prediction, Problem, Score, Scored

Scorer = Callable[[Problem, Prediction, str], Score]
"""Judges a prediction under a planning rule: ``judge``, or what stands in for it in a test."""


def judge(problem: Problem, prediction: Prediction, planning_rule: str) -> Score:
    """Score a prediction by its benchmark; a benchmark without ``planning_rule`` uses its first rule.

    ``official`` is the authors' own rule, SettingsError where they have published none.
    """
    benchmark = get(problem.benchmark)
    known = planning_rule == OFFICIAL or planning_rule in benchmark.rules
    rule = benchmark.rule_of(planning_rule) if known else benchmark.rules[0]
    return benchmark.score(problem, prediction.output, rule=rule)


def judged_again(scored: Sequence[Scored], problems: Sequence[Problem], rule: str | None) -> list[Scored]:
    """Predictions scored by another rule; SettingsError for one that a benchmark does not have."""
    by_id = {problem.id: problem for problem in problems}
    return [
        (prediction, judge(by_id[prediction.problem_id], prediction, get(prediction.benchmark).rule_of(rule)))
        for prediction, _ in scored
    ]
