"""The figures of an evaluation as JSON: those of metrics.json, and those of one system on one benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mirage_core.errors import DataError
from mirage_core.evaluation import option_orders
from mirage_core.evaluation.metrics import ALL, accuracy_rows, as_json, run_scores
from mirage_core.types import Scored


def metrics_of(scored: Sequence[Scored], *, method: str, latents: str) -> dict[str, Any]:
    """Return the metrics of one method: ``scores`` in a run record's form, and the full ``rows`` behind them.

    ``protocols`` has the scores over all orders of the options, if a benchmark asks in several.
    """
    rows = accuracy_rows(scored)
    protocols = [option_orders.as_json(row) for row in option_orders.protocol_rows(scored)]
    return {
        "method": method,
        "latents": latents,
        "scores": run_scores(rows),
        "rows": [as_json(row) for row in rows],
        **({"protocols": protocols} if protocols else {}),
    }


def benchmark_summary(benchmark: str, scored: Sequence[Scored]) -> dict[str, Any]:
    """Return the figures of one system on one benchmark.

    ``accuracy`` and ``interval`` are the protocol's if the benchmark has one and every order was answered, else those
    of the plain accuracy. Raises DataError if there is no answer.
    """
    if not scored:
        raise DataError(f"nothing to score: no problem of {benchmark} has an answer")
    rows = accuracy_rows(scored)
    protocols = option_orders.protocol_rows(scored)
    plain = next(row for row in rows if row.group == ALL)
    complete = next((row for row in protocols if row.group == ALL and not row.incomplete), None)
    group_fields = ("group", "accuracy", "interval", "n", "unparsed")
    return {
        "benchmark": benchmark,
        "method": plain.method,
        "rule": plain.rule,
        "accuracy": complete.accuracy if complete else plain.accuracy,
        "interval": list(complete.interval if complete else plain.interval),
        "n": plain.n,
        "unparsed": plain.unparsed,
        "groups": [{name: as_json(row)[name] for name in group_fields} for row in rows if row.group != ALL],
        "protocol": [option_orders.as_json(row) for row in protocols],
    }
