"""Accuracy per benchmark and group, with intervals and everything that qualifies it.

Definitions used everywhere in the project:

- accuracy of a group: the mean over its problems of the share of right samples (one sample: plain accuracy).
- micro: all problems of a benchmark pooled, each problem once. Rows with group ``all`` are micro.
- macro: the unweighted mean of the groups' accuracies; equal to micro when the groups are of one size.
- interval: Wilson, 95 %, over problems. Samples of one problem are not independent, so they never make it narrower.
- unparsed: answers that could not be read. They count as wrong, and are shown beside the accuracy, never dropped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import pstdev
from typing import Any

from mirage_core.errors import DataError
from mirage_core.evaluation.statistics import PairedTest, mcnemar, wilson
from mirage_core.types import Prediction, Scored

ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyRow:
    """One line of the score table. Shares are of answers; ``n`` counts problems, ``answers`` counts samples."""

    benchmark: str
    method: str
    group: str
    rule: str
    n: int
    answers: int
    accuracy: float
    interval: tuple[float, float]
    macro: float | None
    spread: float
    unparsed: int
    unparsed_share: float
    latent_share: float
    cut_share: float
    mean_tokens: float


def accuracy_rows(scored: Sequence[Scored]) -> list[AccuracyRow]:
    """Return one row a (benchmark, method, group) and one micro row ``all`` a (benchmark, method), in sorted order."""
    rows: list[AccuracyRow] = []
    for (benchmark, method), answers in sorted(_by(scored, lambda p: (p.benchmark, p.method)).items()):
        groups = [_row(benchmark, method, group, part) for group, part in sorted(_by(answers, _group_of).items())]
        macro = sum(row.accuracy for row in groups) / len(groups)
        rows += [*groups, _row(benchmark, method, ALL, answers, macro)]
    return rows


def pooled_row(scored: Iterable[Scored], benchmark: str, method: str, groups: Iterable[str]) -> AccuracyRow | None:
    """Return one micro row over some groups of one benchmark and method, or None when nothing is there."""
    selected = frozenset(groups)
    part = [pair for pair in scored if pair[0].benchmark == benchmark and pair[0].method == method]
    part = [pair for pair in part if pair[0].group in selected]
    return _row(benchmark, method, "+".join(sorted(selected)), part) if part else None


def paired(scored: Sequence[Scored], benchmark: str, first: str, second: str, groups: Iterable[str] = ()) -> PairedTest:
    """McNemar's exact test between two methods on one benchmark; of several samples the first one counts."""
    selected = frozenset(groups)

    def correct(method: str) -> dict[str, bool]:
        return correct_by_problem(
            pair
            for pair in scored
            if (pair[0].benchmark, pair[0].method) == (benchmark, method)
            and (not selected or pair[0].group in selected)
        )

    return mcnemar(first, correct(first), second, correct(second))


def first_samples(scored: Iterable[Scored]) -> dict[str, Scored]:
    """The first sample's answer to every problem, by the problem's id."""
    return {prediction.problem_id: (prediction, score) for prediction, score in scored if prediction.sample == 0}


def correct_by_problem(scored: Iterable[Scored]) -> dict[str, bool]:
    """Whether the first sample of every problem is correct, by the problem's id."""
    return {problem_id: score.correct for problem_id, (_, score) in first_samples(scored).items()}


def run_scores(rows: Iterable[AccuracyRow]) -> list[dict[str, Any]]:
    """Return the rows in the form of a run record: benchmark, method, level, accuracy, interval, n, unparsed, rule.

    ``level`` is "3" for the group ``level-3``, else the group's own name; ``all`` is the micro row.
    """
    return [
        {
            "benchmark": row.benchmark,
            "method": row.method,
            "level": level_of(row.group),
            "accuracy": row.accuracy,
            "interval": list(row.interval),
            "n": row.n,
            "unparsed": row.unparsed,
            "latent_share": row.latent_share,
            "rule": row.rule,
        }
        for row in rows
    ]


def level_of(group: str) -> str:
    """Return "3" for ``level-3``; any other group's name as it is."""
    return group.removeprefix("level-")


def as_json(row: AccuracyRow) -> dict[str, Any]:
    """Return a row as JSON values."""
    return {**asdict(row), "interval": list(row.interval)}


def _row(benchmark: str, method: str, group: str, answers: Sequence[Scored], macro: float | None = None) -> AccuracyRow:
    """Count one cell of the table."""
    rules = sorted({score.rule for _, score in answers})
    if len(rules) > 1:
        raise DataError(f"{benchmark}, {method}: answers were judged by different rules ({', '.join(rules)}); use one")
    problems = _by(answers, lambda prediction: prediction.problem_id)
    right = sum(sum(score.correct for _, score in part) / len(part) for part in problems.values())
    count = len(answers)
    unparsed = sum(score.parsed is None for _, score in answers)
    return AccuracyRow(
        benchmark=benchmark,
        method=method,
        group=group,
        rule=rules[0],
        n=len(problems),
        answers=count,
        accuracy=right / len(problems),
        interval=wilson(right, len(problems)),
        macro=macro,
        spread=_spread(answers),
        unparsed=unparsed,
        unparsed_share=unparsed / count,
        latent_share=sum(bool(prediction.spans) for prediction, _ in answers) / count,
        cut_share=sum(not prediction.finished for prediction, _ in answers) / count,
        mean_tokens=sum(len(prediction.token_ids) for prediction, _ in answers) / count,
    )


def _spread(answers: Sequence[Scored]) -> float:
    """Standard deviation of the accuracy over repeats: 0 when every problem was answered once."""
    repeats = _by(answers, lambda prediction: prediction.sample)
    return pstdev(sum(score.correct for _, score in part) / len(part) for part in repeats.values())


def _group_of(prediction: Prediction) -> str:
    return prediction.group


def _by(answers: Iterable[Scored], key: Callable[[Prediction], Any]) -> dict[Any, list[Scored]]:
    """Group answers by a key of the prediction, in their order."""
    parts: dict[Any, list[Scored]] = defaultdict(list)
    for pair in answers:
        parts[key(pair[0])].append(pair)
    return dict(parts)
