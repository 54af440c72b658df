"""What a study's accuracies are to be compared with: a rule from text alone, and each cell without the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mirage_core.benchmarks.benchmark import PLANNING_RULES
from mirage_core.evaluation.blind import text_rule
from mirage_core.evaluation.metrics import AccuracyRow, accuracy_rows
from mirage_core.reports.study.seeds import Estimate, share
from mirage_core.store.records import load_problems
from mirage_core.types import Problem, Scored

PROBLEMS = "problems/"
"""Begins the name of an input that holds the problems of a seed; their digest follows."""
NO_PICTURE = "blind-evaluation/"
"""Begins the name of an input that holds the answers of a run without the picture; the run's name follows."""

BlindScores = Mapping[tuple[str, str], Estimate]
"""The accuracy of the text-only rule by (benchmark, group), over the seeds."""


def blind_scores(folders: Mapping[str, Path], scored: Mapping[str, Sequence[Scored]]) -> BlindScores:
    """Fit and judge the rule on every seed's problems, as far as some cell answered them; empty without problems."""
    rules = {score.rule for pairs in scored.values() for _, score in pairs}
    planning_rule = next((rule for rule in PLANNING_RULES if rule in rules), PLANNING_RULES[0])
    asked = {prediction.problem_id for pairs in scored.values() for prediction, _ in pairs}
    rows: dict[tuple[str, str], list[AccuracyRow]] = {}
    for name in sorted(folders):
        for row in _rows(load_problems(folders[name]), asked, planning_rule):
            rows.setdefault((row.benchmark, row.group), []).append(row)
    return {
        key: share([row.accuracy * row.n for row in of_seeds], [row.n for row in of_seeds], same_problems=False)
        for key, of_seeds in rows.items()
    }


def _rows(problems: Sequence[Problem], asked: set[str], planning_rule: str) -> list[AccuracyRow]:
    answered = [problem for problem in problems if problem.split == "test" and problem.id in asked]
    return accuracy_rows(text_rule(problems, answered, planning_rule))
