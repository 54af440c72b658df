"""What an evaluation of one method comes to, in the form of its metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mirage_core.evaluation import option_orders as protocol
from mirage_core.evaluation.metrics import AccuracyRow, accuracy_rows, as_json, run_scores
from mirage_core.types import Scored


def metrics_of(scored: Sequence[Scored], *, method: str, latents: str) -> dict[str, Any]:
    """Return the metrics of one method: ``scores`` in a run record's form, and the full ``rows`` behind them.

    ``protocols`` holds the scores over all orders of the options, where a benchmark asks in several.
    """
    rows: list[AccuracyRow] = accuracy_rows(scored)
    protocols = [protocol.as_json(row) for row in protocol.protocol_rows(scored)]
    return {
        "method": method,
        "latents": latents,
        "scores": run_scores(rows),
        "rows": [as_json(row) for row in rows],
        **({"protocols": protocols} if protocols else {}),
    }
