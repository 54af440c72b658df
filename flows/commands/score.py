"""``mirage score``: answers that another system gave, judged by the scorers of every evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from flows.commands.evaluate import problems_of, protocol_line
from flows.commands.printing import aside, console
from flows.trained import use_task
from mirage_core.benchmarks.custom import jsonl_data as own
from mirage_core.config import OwnData
from mirage_core.evaluation.predictions_file import judged, read_outputs, summary
from mirage_core.reports.run import published_numbers as published
from mirage_core.store import Store
from mirage_core.store.records import save_predictions
from mirage_core.types import Problem
from tasks.paths import open_store


def score(
    benchmark: str,
    data: Path | None,
    predictions: Path,
    *,
    method: str | None,
    rule: str | None,
    partial: bool,
    save: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Judge a file of predictions, and print accuracy with its interval, whole and a group."""
    opened = open_store(store)
    use_task(benchmark, None, opened)
    problems, source = rows_of(benchmark, data, opened)
    outputs = read_outputs(predictions, benchmark, problems, partial=partial)
    scored = judged(benchmark, problems, outputs.texts, method=method or predictions.stem, rule=rule)
    if save is not None:
        save_predictions(save, scored)
    told = {
        **summary(benchmark, scored),
        "data": source,
        "predictions": str(predictions),
        "missing": len(outputs.missing),
        "published": [
            {"label": number.label, "accuracy": number.accuracy, "source": number.source}
            for number in published.numbers(benchmark)
        ],
    }
    if as_json:
        console.print_json(json.dumps(told))
    else:
        show(told)


def rows_of(benchmark: str, data: Path | None, store: Store) -> tuple[list[Problem], str]:
    """The problems in the order of the data's rows, and where they are from; of your own file every line counts."""
    if benchmark == own.NAME and data is not None:
        every = OwnData(file=str(data), test_share=1.0, validation_share=0.0)
        return [row.problem for row in own.rows_of(every)], str(data)
    return problems_of(benchmark, data, store)


def show(told: dict[str, Any]) -> None:
    """The figures as a table, what is published of others below it."""
    console.print(score_table(told))
    for row in told["protocol"]:
        if row["group"] == "all":
            console.print(protocol_line(row), markup=False)
    if told["missing"]:
        aside.print(f"{told['missing']} problems have no answer and are not counted (--partial)", style="yellow")
    for number in told["published"]:
        console.print(f"published  {number['accuracy']:.1%}  {number['label']} ({number['source']})", markup=False)


def score_table(told: dict[str, Any]) -> Table:
    """A group a row, all of them last."""
    table = Table("group", "accuracy", "95 % interval", "n", "unparsed", "rule", box=None, pad_edge=False)
    for row in [*told["groups"], {**told, "group": "all"}]:
        low, high = row["interval"]
        table.add_row(
            row["group"], f"{row['accuracy']:.1%}", f"{low:.1%} to {high:.1%}", str(row["n"]), str(row["unparsed"]),
            told["rule"],
        )  # fmt: skip
    return table
