"""Paired comparisons of answers to the same problems: of two systems, and of a model before and now.

Both use McNemar's test on first samples, with Holm's correction over the rows of a comparison.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mirage_core.errors import InputError
from mirage_core.evaluation.metrics import ALL, correct_by_problem, first_samples
from mirage_core.evaluation.statistics import PairedTest, holm, mcnemar, wilson
from mirage_core.types import Problem, Scored

By = Literal["all", "group", "type"]
Answers = Mapping[str, Scored]
"""The first sample's answer to every problem, by the problem's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of two systems: its label, and its scored answers."""

    name: str
    scored: tuple[Scored, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a comparison; ``difference`` is the second accuracy minus the first, with Newcombe's interval.

    ``p_value`` is McNemar's, exact up to 1,000 problems that only one of the two got right; ``p_corrected`` is Holm's
    over the rows of one benchmark.
    """

    benchmark: str
    by: By
    name: str
    rule: str
    n: int
    first: float
    first_interval: tuple[float, float]
    second: float
    second_interval: tuple[float, float]
    difference: float
    interval: tuple[float, float]
    only_first: int
    only_second: int
    p_value: float
    p_corrected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """A problem that only one of the two got right, and the two parsed answers (None: unparsed)."""

    problem_id: str
    benchmark: str
    group: str
    right: Literal["first", "second"]
    first: str | None
    second: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The rows of every benchmark and the problems that flipped; ``left_out``: problems that only one side answered."""

    first: str
    second: str
    rows: tuple[Row, ...]
    flips: tuple[Flip, ...]
    left_out: int

    def as_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return asdict(self)


def compare_sides(
    first: Side, second: Side, problems: Mapping[str, Problem] | None = None, *, common: bool = False
) -> Comparison:
    """Compare two sides problem by problem; of several samples the first counts.

    Rows by type need the ``problems``, whose facts have it. Raises InputError if the sides did not answer the same
    problems (unless ``common``: then those that both answered are compared), or were judged by different rules.
    """
    answers = (first_samples(first.scored), first_samples(second.scored))
    shared = [problem_id for problem_id in answers[0] if problem_id in answers[1]]
    left_out = len(answers[0].keys() ^ answers[1].keys())
    if not shared:
        raise InputError(f"{first.name} and {second.name} have no problem in common: answer the same data with both")
    if left_out and not common:
        raise InputError(
            f"{first.name} answers {len(answers[0])} problems and {second.name} {len(answers[1])}, {len(shared)} of "
            "them the same: answer the same data with both, or compare those alone with --common"
        )
    _check_rules((first.name, second.name), answers, shared)
    by_benchmark: defaultdict[str, list[str]] = defaultdict(list)
    for problem_id in shared:
        by_benchmark[answers[0][problem_id][0].benchmark].append(problem_id)
    rows = [row for name, ids in sorted(by_benchmark.items()) for row in _rows(name, ids, answers, problems or {})]
    flips = tuple(flip for problem_id in shared for flip in _flip(answers[0][problem_id], answers[1][problem_id]))
    return Comparison(first=first.name, second=second.name, rows=tuple(rows), flips=flips, left_out=left_out)


def _check_rules(names: tuple[str, str], answers: tuple[Answers, Answers], shared: Iterable[str]) -> None:
    for problem_id in shared:
        first, second = answers[0][problem_id][1].rule, answers[1][problem_id][1].rule
        if first != second:
            raise InputError(
                f"{names[0]} was judged by the rule {first!r} and {names[1]} by {second!r} (problem {problem_id}): "
                "judge both by one, for example with `mirage score --rule`"
            )


def _rows(
    benchmark: str, ids: Sequence[str], answers: tuple[Answers, Answers], problems: Mapping[str, Problem]
) -> list[Row]:
    """A row a group, a row a type where types differ from groups, and one over all problems."""
    parts: defaultdict[tuple[By, str], list[str]] = defaultdict(list)
    for problem_id in ids:
        group = answers[0][problem_id][0].group
        kind = str(problems[problem_id].facts.get("type", group)) if problem_id in problems else group
        parts["group", group].append(problem_id)
        if kind != group:
            parts["type", kind].append(problem_id)
    named_parts = [*sorted(parts.items()), (("all", ALL), list(ids))]
    tests = _paired_tests(
        [tuple([side[problem_id] for problem_id in part] for side in answers) for _, part in named_parts]
    )
    return [
        _row(benchmark, by, name, answers[0][part[0]][1].rule, test, p)
        for ((by, name), part), (test, p) in zip(named_parts, tests, strict=True)
    ]


def _row(benchmark: str, by: By, name: str, rule: str, test: PairedTest, p_corrected: float) -> Row:
    return Row(
        benchmark=benchmark,
        by=by,
        name=name,
        rule=rule,
        n=test.n,
        first=test.second_accuracy,
        first_interval=wilson(test.both + test.only_second, test.n),
        second=test.first_accuracy,
        second_interval=wilson(test.both + test.only_first, test.n),
        difference=test.difference,
        interval=test.interval,
        only_first=test.only_second,
        only_second=test.only_first,
        p_value=test.p_value,
        p_corrected=p_corrected,
    )


def _flip(first: Scored, second: Scored) -> list[Flip]:
    (prediction, first_score), (_, second_score) = first, second
    if first_score.correct == second_score.correct:
        return []
    return [
        Flip(
            problem_id=prediction.problem_id,
            benchmark=prediction.benchmark,
            group=prediction.group,
            right="first" if first_score.correct else "second",
            first=first_score.parsed,
            second=second_score.parsed,
        )
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How one benchmark (``all``: every problem) changed between two evaluations; ``difference`` is now - before.

    Accuracies are those of first samples, which the test is about. ``p_corrected`` is Holm's over all rows of one
    comparison; the interval (95 %) is of this row alone.
    """

    benchmark: str
    n: int
    before: float
    now: float
    right_then_wrong: int
    wrong_then_right: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    p_corrected: float

    def is_drop(self, alpha: float) -> bool:
        """Whether it is worse now, by more than chance explains at the level ``alpha``."""
        return self.difference < 0 and self.p_corrected < alpha


def compare_evaluations(before: Sequence[Scored], now: Sequence[Scored]) -> list[Change]:
    """Compare two evaluations: a row a benchmark and, if there are several, one over all problems.

    All rows are corrected for, so the probability that any row of an unchanged model is a drop is at most the level.
    Of several samples the first counts. Raises InputError unless the problems are the same.
    """
    benchmarks = sorted({prediction.benchmark for prediction, _ in now})
    names = [*benchmarks, ALL] if len(benchmarks) > 1 else benchmarks
    tests = _paired_tests(
        [
            tuple([pair for pair in side if name in (ALL, pair[0].benchmark)] for side in (before, now))
            for name in names
        ],
        ("before", "now"),
    )
    return [
        Change(
            benchmark=name,
            n=test.n,
            before=test.second_accuracy,
            now=test.first_accuracy,
            right_then_wrong=test.only_second,
            wrong_then_right=test.only_first,
            difference=test.difference,
            interval=test.interval,
            p_value=test.p_value,
            p_corrected=p,
        )
        for name, (test, p) in zip(names, tests, strict=True)
    ]


def _paired_tests(
    parts: Sequence[tuple[Sequence[Scored], ...]], names: tuple[str, str] = ("first", "second")
) -> list[tuple[PairedTest, float]]:
    """McNemar's test of (first, second) answers on each part, and its p-value corrected for the number of parts.

    Differences are the second's minus the first's, so the second side is the test's ``first``.
    """
    correct = [tuple(correct_by_problem(side) for side in part) for part in parts]
    tests = [mcnemar(names[1], second, names[0], first) for first, second in correct]
    return list(zip(tests, holm([test.p_value for test in tests]), strict=True))


def problem_content(problem: Problem) -> tuple[str, ...]:
    """What a model is asked and judged by: id, benchmark, group, question, answer, and digests of the images."""
    images = [hashlib.sha256(image).hexdigest() for image in problem.images]
    return (problem.id, problem.benchmark, problem.group, problem.question, problem.answer, *images)


def problems_digest(problems: Iterable[Problem]) -> str:
    """One sha256 of the content of all problems, in their order."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(repr(problem_content(problem)).encode())
    return digest.hexdigest()
