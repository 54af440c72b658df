"""Answers that another system gave: a JSONL file of {row, output}, judged by the scorers of every evaluation.

``row`` counts the rows of the data from 0. Where a row is asked in several orders (SAT), ``order`` says which, 0 as
published when it is left out; a file without any ``order`` is judged on the published order alone. ``id``, the
problem's own, may stand in the place of ``row``. Other keys are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirage_core.benchmarks import get, orders_of
from mirage_core.benchmarks.io.jsonl import Row, read_rows
from mirage_core.errors import DataError, SettingsError
from mirage_core.evaluation import option_orders as protocol
from mirage_core.evaluation.metrics import ALL, AccuracyRow, accuracy_rows
from mirage_core.types import Prediction, Problem, Scored

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a file answers, by problem, and which problems it was expected to answer."""

    texts: Mapping[str, str]
    expected: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """The expected problems without an answer."""
        return tuple(identity for identity in self.expected if identity not in self.texts)


def read_outputs(file: Path, benchmark: str, problems: Sequence[Problem], *, partial: bool = False) -> Outputs:
    """Read a file of predictions for the problems of one data file, in their order.

    Raises:
        DataError: a row is unknown, stands twice, or (unless ``partial``) is missing; the message names lines.
    """
    places = _places(benchmark, problems)
    known = {problem.id for problem in problems}
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    for row in read_rows(file):
        identity = _problem_of(row, places, known)
        if identity in lines:
            raise DataError(
                f"{row.where}: {_named(row)} is answered on line {lines[identity]} already; keep one answer"
            )
        texts[identity], lines[identity] = _output(row), row.line
    ordered = any(order for (_, order), identity in places.items() if identity in texts)
    expected = tuple(one for (_, order), one in places.items() if order == 0 or ordered)
    outputs = Outputs(texts, expected)
    if outputs.missing and not partial:
        raise DataError(_missing(file, outputs, places))
    return outputs


def judged(
    benchmark: str, problems: Sequence[Problem], outputs: Mapping[str, str], *, method: str, rule: str | None = None
) -> list[Scored]:
    """Judge the answers in the problems' order; SettingsError for a rule that the benchmark does not have."""
    scorer = get(benchmark)
    if rule is not None and rule not in scorer.rules:
        raise SettingsError(f"{benchmark} has no rule {rule!r}; known: {', '.join(scorer.rules)}")
    return [
        (prediction, scorer.score(problem, prediction.output, rule=rule or scorer.rules[0]))
        for problem in problems
        if problem.id in outputs
        for prediction in [_prediction(problem, outputs[problem.id], method)]
    ]


def summary(benchmark: str, scored: Sequence[Scored]) -> dict[str, Any]:
    """The figures of one system on one benchmark as JSON values.

    ``accuracy`` and ``interval`` are the protocol's where the benchmark has one and every order was answered, else
    plain accuracy. Raises DataError when nothing was answered.
    """
    if not scored:
        raise DataError(f"nothing to score: no problem of {benchmark} has an answer")
    rows = accuracy_rows(scored)
    protocols = protocol.protocol_rows(scored)
    plain = next(row for row in rows if row.group == ALL)
    whole = next((row for row in protocols if row.group == ALL and not row.incomplete), None)
    return {
        "benchmark": benchmark,
        "method": plain.method,
        "rule": plain.rule,
        "accuracy": whole.accuracy if whole else plain.accuracy,
        "interval": list(whole.interval if whole else plain.interval),
        "n": plain.n,
        "unparsed": plain.unparsed,
        "groups": [_group(row) for row in rows if row.group != ALL],
        "protocol": [protocol.as_json(row) for row in protocols],
    }


def _group(row: AccuracyRow) -> dict[str, Any]:
    return {
        "group": row.group,
        "accuracy": row.accuracy,
        "interval": list(row.interval),
        "n": row.n,
        "unparsed": row.unparsed,
    }


def _places(benchmark: str, problems: Sequence[Problem]) -> dict[tuple[int, int], str]:
    """Every problem by its row in the data and the order it is asked in."""
    orders = orders_of(benchmark)
    if orders is None or not orders.per_row:
        return {(row, 0): problem.id for row, problem in enumerate(problems)}
    places: dict[tuple[int, int], str] = {}
    row = -1
    for problem in problems:
        told = orders.asked(problem.id)
        order = told[1] if told else 0
        row += order == 0
        places[row, order] = problem.id
    return places


def _problem_of(row: Row, places: Mapping[tuple[int, int], str], known: set[str]) -> str:
    if "id" in row.values and "row" not in row.values:
        if row.values["id"] not in known:
            raise DataError(
                f"{row.where}: the id {row.values['id']!r} is none of the {len(known)} problems of the data"
            )
        return str(row.values["id"])
    at, order = _number(row, "row"), _number(row, "order", 0)
    if (at, order) not in places:
        last, most = max(place for place, _ in places), max(place for _, place in places)
        orders = f" in the orders 0 to {most}" if most else ""
        raise DataError(f"{row.where}: {_named(row)} is unknown; the data has the rows 0 to {last}{orders}")
    return places[at, order]


def _number(row: Row, key: str, default: int | None = None) -> int:
    value = row.values.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DataError(f"{row.where}: {key} is {value!r}, expected a whole number from 0 on")
    return value


def _output(row: Row) -> str:
    if row.values.get("output", 0) is None:  # no answer was given: unparsed
        return ""
    return row.text("output")


def _named(row: Row) -> str:
    if "row" not in row.values:
        return f"the problem {row.values['id']!r}"
    return f"row {row.values['row']}" + (f", order {row.values['order']}" if "order" in row.values else "")


def _missing(file: Path, outputs: Outputs, places: Mapping[tuple[int, int], str]) -> str:
    missing = set(outputs.missing)
    ordered = any(order for _, order in places)
    named = [f"{row}, order {order}" if ordered else str(row) for (row, order), one in places.items() if one in missing]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return (
        f"{file} answers {len(outputs.texts)} of {len(outputs.expected)} rows; missing: row "
        f"{'; '.join(named[:SHOWN])}{more}. Answer every row, or score what is there with --partial"
    )


def _prediction(problem: Problem, output: str, method: str) -> Prediction:
    return Prediction(
        problem_id=problem.id,
        benchmark=problem.benchmark,
        group=problem.group,
        method=method,
        output=output,
        token_ids=(),
        spans=(),
        finished=True,
    )
