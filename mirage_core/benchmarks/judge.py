"""The one judge of predictions: a benchmark's own scorer, under the rule that was chosen where it knows that rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mirage_core.benchmarks import OFFICIAL, get
from mirage_core.errors import DataError, MirageError
from mirage_core.types import Prediction, Problem, Score, Scored

Scorer = Callable[[Problem, Prediction, str], Score]
"""Judges a prediction under a planning rule: ``judge``, or what stands in for it in a test."""


def judged(scorer: Scorer, problem: Problem, prediction: Prediction, planning_rule: str) -> Score:
    """The verdict of a scorer; a scorer that fails is told apart from a wrong answer.

    DataError, naming task, problem and scorer, if it raises or returns no verdict.
    """
    name = getattr(scorer, "__qualname__", type(scorer).__name__)
    try:
        score = scorer(problem, prediction, planning_rule)
    except MirageError:
        raise
    except Exception as error:
        raise DataError(
            f"{problem.benchmark}: the scorer {name} failed on problem {problem.id}: {type(error).__name__}: {error}. "
            f"The answer was not judged; correct the scorer, then run again. The output: {prediction.output!r:.200}"
        ) from error
    if not isinstance(score, Score) or not isinstance(score.correct, bool):
        raise DataError(
            f"{problem.benchmark}: the scorer {name} returned {score!r:.200} for problem {problem.id}, expected a "
            "Score whose correct is True or False; correct the scorer"
        )
    return score


def judge(problem: Problem, prediction: Prediction, planning_rule: str) -> Score:
    """Score a prediction by its benchmark; a benchmark without ``planning_rule`` uses its first rule.

    ``official`` is the authors' own rule, SettingsError where they have published none. DataError as for ``judged``.
    """
    return judged(_score, problem, prediction, planning_rule)


def _score(problem: Problem, prediction: Prediction, planning_rule: str) -> Score:
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
