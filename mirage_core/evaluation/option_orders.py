"""Scores of benchmarks that ask each question in several orders of its options: mean over orders, and consistency.

The mean over the orders is the benchmark's own score; its interval is over questions, since the orders of one question
are not independent. The share of questions that are right in every order is reported beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mirage_core.benchmarks import OptionOrders, orders_of
from mirage_core.evaluation.metrics import ALL
from mirage_core.evaluation.statistics import wilson
from mirage_core.types import Scored

SharesByOrder = Mapping[int, float]
"""The share of right samples of one question, by the order of its options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolRow:
    """One method's protocol score on one group; shares are of the questions with answers in every order."""

    benchmark: str
    method: str
    group: str
    protocol: str
    orders: int
    questions: int
    incomplete: int
    accuracy: float
    interval: tuple[float, float]
    by_order: tuple[float, ...]
    consistent: float
    consistent_interval: tuple[float, float]


def protocol_rows(scored: Sequence[Scored]) -> list[ProtocolRow]:
    """Return a row a (benchmark, method, group) and one over all groups, for benchmarks with a protocol.

    Groups without a question that has answers in every order have no row.
    """
    parts: defaultdict[tuple[str, str], list[Scored]] = defaultdict(list)
    for pair in scored:
        parts[pair[0].benchmark, pair[0].method].append(pair)
    rows: list[ProtocolRow] = []
    for (benchmark, method), pairs in sorted(parts.items()):
        orders = orders_of(benchmark)
        if orders is not None:
            groups = [*sorted({prediction.group for prediction, _ in pairs}), ALL]
            group_rows = (_row(orders, benchmark, method, group, pairs) for group in groups)
            rows += [row for row in group_rows if row is not None]
    return rows


def as_json(row: ProtocolRow) -> dict[str, Any]:
    """A row as JSON values."""
    lists = {name: list(getattr(row, name)) for name in ("interval", "by_order", "consistent_interval")}
    return {**asdict(row), **lists}


def _row(orders: OptionOrders, benchmark: str, method: str, group: str, pairs: Sequence[Scored]) -> ProtocolRow | None:
    questions, consistency = _by_question(orders, [pair for pair in pairs if group in (ALL, pair[0].group)])
    complete = {question: shares for question, shares in questions.items() if len(shares) == orders.count}
    if not complete:
        return None
    count = len(complete)
    by_order = tuple(sum(shares[at] for shares in complete.values()) / count for at in range(orders.count))
    accuracy, consistent = sum(by_order) / orders.count, sum(consistency[question] for question in complete) / count
    return ProtocolRow(
        benchmark=benchmark,
        method=method,
        group=group,
        protocol=orders.name,
        orders=orders.count,
        questions=count,
        incomplete=len(questions) - count,
        accuracy=accuracy,
        interval=wilson(accuracy * count, count),
        by_order=by_order,
        consistent=consistent,
        consistent_interval=wilson(consistent * count, count),
    )


def _by_question(orders: OptionOrders, pairs: Sequence[Scored]) -> tuple[dict[str, SharesByOrder], dict[str, float]]:
    """Return each question's share of right samples by order, and its share of samples right in every order."""
    right: defaultdict[str, defaultdict[int, dict[int, bool]]] = defaultdict(lambda: defaultdict(dict))
    for prediction, score in pairs:
        parsed = orders.parse_id(prediction.problem_id)
        if parsed is not None:
            question, order = parsed
            right[question][order][prediction.sample] = score.correct
    shares: dict[str, SharesByOrder] = {
        question: {order: sum(samples.values()) / len(samples) for order, samples in by_order.items()}
        for question, by_order in right.items()
    }
    return shares, {question: _consistent_share(by_order) for question, by_order in right.items()}


def _consistent_share(by_order: Mapping[int, Mapping[int, bool]]) -> float:
    samples = set.intersection(*(set(answers) for answers in by_order.values()))
    consistent = [all(answers[sample] for answers in by_order.values()) for sample in samples]
    return sum(consistent) / len(consistent) if consistent else 0.0
