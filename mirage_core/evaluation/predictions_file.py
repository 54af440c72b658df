"""Predictions of another system: a JSONL file of {row, output}, judged by the scorers of every evaluation.

``row`` counts the rows of the data from 0. If a row is asked in several orders (SAT), ``order`` says which (default 0,
the published one); a file without any ``order`` is judged on the published order alone. ``id``, the problem's own, can
replace ``row``. Other keys are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mirage_core.benchmarks import get, orders_of
from mirage_core.benchmarks.io.jsonl import Row, read_rows
from mirage_core.benchmarks.judge import judge
from mirage_core.errors import DataError
from mirage_core.types import Prediction, Problem, Scored

MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs of a file by problem id, and the problems it is expected to answer."""

    texts: Mapping[str, str]
    expected: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """The expected problems without an answer."""
        return tuple(problem_id for problem_id in self.expected if problem_id not in self.texts)


def read_outputs(file: Path, benchmark: str, problems: Sequence[Problem], *, partial: bool = False) -> Outputs:
    """Read a file of predictions for the problems of one data file, in their order.

    Raises:
        DataError: a row is unknown, duplicate, or (unless ``partial``) missing; the message names lines.
    """
    index = _problem_index(benchmark, problems)
    known = {problem.id for problem in problems}
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    for row in read_rows(file):
        problem_id = _problem_id(row, index, known)
        if problem_id in lines:
            raise DataError(
                f"{row.where}: {_row_name(row)} is answered on line {lines[problem_id]} already; keep one answer"
            )
        texts[problem_id], lines[problem_id] = _output(row), row.line
    has_orders = any(order for (_, order), problem_id in index.items() if problem_id in texts)
    expected = tuple(problem_id for (_, order), problem_id in index.items() if order == 0 or has_orders)
    outputs = Outputs(texts, expected)
    if outputs.missing and not partial:
        raise DataError(_missing_message(file, outputs, index))
    return outputs


def score_outputs(
    benchmark: str, problems: Sequence[Problem], outputs: Mapping[str, str], *, method: str, rule: str | None = None
) -> list[Scored]:
    """Judge outputs in the problems' order; SettingsError for a rule that the benchmark does not have."""
    applied = get(benchmark).rule_of(rule)
    return [
        (prediction, judge(problem, prediction, applied))
        for problem in problems
        if problem.id in outputs
        for prediction in [_prediction(problem, outputs[problem.id], method)]
    ]


def _problem_index(benchmark: str, problems: Sequence[Problem]) -> dict[tuple[int, int], str]:
    """The id of every problem by its row in the data and the order of its options."""
    orders = orders_of(benchmark)
    if orders is None or not orders.per_row:
        return {(row, 0): problem.id for row, problem in enumerate(problems)}
    index: dict[tuple[int, int], str] = {}
    row = -1
    for problem in problems:
        parsed = orders.parse_id(problem.id)
        order = parsed[1] if parsed else 0
        row += order == 0
        index[row, order] = problem.id
    return index


def _problem_id(row: Row, index: Mapping[tuple[int, int], str], known: set[str]) -> str:
    if "id" in row.values and "row" not in row.values:
        identity = row.values["id"]
        if not isinstance(identity, str) or identity not in known:
            raise DataError(f"{row.where}: the id {identity!r:.80} is none of the {len(known)} problems of the data")
        return identity
    number, order = _number(row, "row"), _number(row, "order", 0)
    if (number, order) not in index:
        last_row, last_order = max(each for each, _ in index), max(each for _, each in index)
        orders = f" in the orders 0 to {last_order}" if last_order else ""
        raise DataError(f"{row.where}: {_row_name(row)} is unknown; the data has the rows 0 to {last_row}{orders}")
    return index[number, order]


def _number(row: Row, key: str, default: int | None = None) -> int:
    value = row.values.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DataError(f"{row.where}: {key} is {value!r}, expected a whole number from 0 on")
    return value


def _output(row: Row) -> str:
    if row.values.get("output", 0) is None:  # no answer: unparsed
        return ""
    return row.text("output")


def _row_name(row: Row) -> str:
    if "row" not in row.values:
        return f"the problem {row.values['id']!r}"
    return f"row {row.values['row']}" + (f", order {row.values['order']}" if "order" in row.values else "")


def _missing_message(file: Path, outputs: Outputs, index: Mapping[tuple[int, int], str]) -> str:
    missing = set(outputs.missing)
    has_orders = any(order for _, order in index)
    names = [
        f"{row}, order {order}" if has_orders else str(row) for (row, order), each in index.items() if each in missing
    ]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return (
        f"{file} answers {len(outputs.texts)} of {len(outputs.expected)} rows; missing: row "
        f"{'; '.join(names[:MAX_NAMED])}{more}. Answer every row, or score what is there with --partial"
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
