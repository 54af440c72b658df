"""Benchmarks that ask each question in several orders of its options: the mean over the orders, and who held firm.

An answer that only stands in some orders is luck in part. The mean over the orders is the benchmark's own score; its
interval is over questions, since the orders of one question are not independent. The share of questions that are right
in every order is reported beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mirage_core.benchmarks import Orders, orders_of
from mirage_core.evaluation.metrics import ALL
from mirage_core.evaluation.statistics import wilson
from mirage_core.types import Scored

Asked = Mapping[int, float]
"""The share of right samples of one question, by the order it was asked in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolRow:
    """One method's protocol score on one group; shares are of the questions that were answered in every order."""

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
    """A row a (benchmark, method, group) and one over all groups, for the benchmarks that have a protocol.

    Nothing where no question was answered in every order.
    """
    parts: defaultdict[tuple[str, str], list[Scored]] = defaultdict(list)
    for pair in scored:
        parts[pair[0].benchmark, pair[0].method].append(pair)
    rows: list[ProtocolRow] = []
    for (benchmark, method), pairs in sorted(parts.items()):
        orders = orders_of(benchmark)
        if orders is not None:
            groups = [*sorted({prediction.group for prediction, _ in pairs}), ALL]
            found = (_row(orders, benchmark, method, group, pairs) for group in groups)
            rows += [row for row in found if row is not None]
    return rows


def as_json(row: ProtocolRow) -> dict[str, Any]:
    """A row as JSON values."""
    lists = {name: list(getattr(row, name)) for name in ("interval", "by_order", "consistent_interval")}
    return {**asdict(row), **lists}


def _row(orders: Orders, benchmark: str, method: str, group: str, pairs: Sequence[Scored]) -> ProtocolRow | None:
    asked, firm = _by_question(orders, [pair for pair in pairs if group in (ALL, pair[0].group)])
    complete = {question: shares for question, shares in asked.items() if len(shares) == orders.count}
    if not complete:
        return None
    count = len(complete)
    by_order = tuple(sum(shares[at] for shares in complete.values()) / count for at in range(orders.count))
    accuracy, consistent = sum(by_order) / orders.count, sum(firm[question] for question in complete) / count
    return ProtocolRow(
        benchmark=benchmark,
        method=method,
        group=group,
        protocol=orders.name,
        orders=orders.count,
        questions=count,
        incomplete=len(asked) - count,
        accuracy=accuracy,
        interval=wilson(accuracy * count, count),
        by_order=by_order,
        consistent=consistent,
        consistent_interval=wilson(consistent * count, count),
    )


def _by_question(orders: Orders, pairs: Sequence[Scored]) -> tuple[dict[str, Asked], dict[str, float]]:
    """The right share of every question by order, and the share of its samples that are right in every order."""
    right: defaultdict[str, defaultdict[int, dict[int, bool]]] = defaultdict(lambda: defaultdict(dict))
    for prediction, score in pairs:
        told = orders.asked(prediction.problem_id)
        if told is not None:
            right[told[0]][told[1]][prediction.sample] = score.correct
    shares: dict[str, Asked] = {
        question: {order: sum(samples.values()) / len(samples) for order, samples in by_order.items()}
        for question, by_order in right.items()
    }
    return shares, {question: _firm(by_order) for question, by_order in right.items()}


def _firm(by_order: Mapping[int, Mapping[int, bool]]) -> float:
    samples = set.intersection(*(set(answers) for answers in by_order.values()))
    held = [all(answers[sample] for answers in by_order.values()) for sample in samples]
    return sum(held) / len(held) if held else 0.0
