"""Two systems' answers to the same problems: accuracies a group and a type, McNemar's test, and what flipped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from mirage_core.errors import InputError
from mirage_core.evaluation.metrics import ALL
from mirage_core.evaluation.statistics import holm, mcnemar, wilson
from mirage_core.types import Problem, Scored

By = Literal["all", "group", "type"]
Answered = Mapping[str, Scored]
"""The first sample's answer to every problem, by the problem's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two: what to call it, and its answers with their verdicts."""

    name: str
    scored: tuple[Scored, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the comparison; ``difference`` is the second's accuracy minus the first's, its interval Newcombe's.

    ``p_value`` is McNemar's, exact up to 1,000 problems that only one of the two got right; ``p_corrected`` is Holm's
    over the lines of one benchmark.
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
    """A problem that one of the two got right and the other wrong, and what each answered (None: unparsed)."""

    problem_id: str
    benchmark: str
    group: str
    right: Literal["first", "second"]
    first: str | None
    second: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The lines of every benchmark and the problems that flipped; ``left_out`` only one of the two had answered."""

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

    Lines a type need the ``problems``, whose facts hold it. Raises InputError when the two did not answer the same
    problems (``common``: those that both answered are compared), or were judged by different rules.
    """
    answers = (_first_samples(first), _first_samples(second))
    shared = [identity for identity in answers[0] if identity in answers[1]]
    left_out = len(answers[0].keys() ^ answers[1].keys())
    if not shared:
        raise InputError(f"{first.name} and {second.name} have no problem in common: answer the same data with both")
    if left_out and not common:
        raise InputError(
            f"{first.name} answers {len(answers[0])} problems and {second.name} {len(answers[1])}, {len(shared)} of "
            "them the same: answer the same data with both, or compare those alone with --common"
        )
    _check_rules(first, second, answers, shared)
    parts: defaultdict[str, list[str]] = defaultdict(list)
    for identity in shared:
        parts[answers[0][identity][0].benchmark].append(identity)
    rows = [
        row for name, ids in sorted(parts.items()) for row in _rows(name, ids, first, second, answers, problems or {})
    ]
    flips = tuple(flip for identity in shared for flip in _flip(answers[0][identity], answers[1][identity]))
    return Comparison(first=first.name, second=second.name, rows=tuple(rows), flips=flips, left_out=left_out)


def _first_samples(side: Side) -> dict[str, Scored]:
    return {prediction.problem_id: (prediction, score) for prediction, score in side.scored if prediction.sample == 0}


def _check_rules(first: Side, second: Side, answers: tuple[Answered, Answered], shared: Iterable[str]) -> None:
    for identity in shared:
        one, other = answers[0][identity][1].rule, answers[1][identity][1].rule
        if one != other:
            raise InputError(
                f"{first.name} was judged by the rule {one!r} and {second.name} by {other!r} (problem {identity}): "
                "judge both by one, for example with `mirage score --rule`"
            )


def _rows(
    benchmark: str,
    ids: Sequence[str],
    first: Side,
    second: Side,
    answers: tuple[Answered, Answered],
    problems: Mapping[str, Problem],
) -> list[Row]:
    """A line a group, a line a type where that says more, and one over all, corrected for their number."""
    parts: defaultdict[tuple[By, str], list[str]] = defaultdict(list)
    for identity in ids:
        group = answers[0][identity][0].group
        kind = str(problems[identity].facts.get("type", group)) if identity in problems else group
        parts["group", group].append(identity)
        if kind != group:
            parts["type", kind].append(identity)
    lines = [*sorted(parts.items()), (("all", ALL), list(ids))]
    rows = [_row(benchmark, by, name, part, first, second, answers) for (by, name), part in lines]
    corrected = holm([row.p_value for row in rows])
    return [replace(row, p_corrected=p) for row, p in zip(rows, corrected, strict=True)]


def _row(
    benchmark: str,
    by: By,
    name: str,
    ids: Sequence[str],
    first: Side,
    second: Side,
    answers: tuple[Answered, Answered],
) -> Row:
    rights = [{identity: answered[identity][1].correct for identity in ids} for answered in answers]
    test = mcnemar(second.name, rights[1], first.name, rights[0])  # the difference is the second's minus the first's
    right = [sum(verdicts.values()) for verdicts in rights]
    return Row(
        benchmark=benchmark,
        by=by,
        name=name,
        rule=answers[0][ids[0]][1].rule,
        n=test.n,
        first=right[0] / test.n,
        first_interval=wilson(right[0], test.n),
        second=right[1] / test.n,
        second_interval=wilson(right[1], test.n),
        difference=test.difference,
        interval=test.interval,
        only_first=test.only_second,
        only_second=test.only_first,
        p_value=test.p_value,
        p_corrected=test.p_value,
    )


def _flip(first: Scored, second: Scored) -> list[Flip]:
    (prediction, one), (_, other) = first, second
    if one.correct == other.correct:
        return []
    return [
        Flip(
            problem_id=prediction.problem_id,
            benchmark=prediction.benchmark,
            group=prediction.group,
            right="first" if one.correct else "second",
            first=one.parsed,
            second=other.parsed,
        )
    ]
