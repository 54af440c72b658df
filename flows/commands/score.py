"""``mirage score``: score the answers of another system with the scorers of every evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from flows.commands.evaluate import Rescoring, judge_line, problems_of, protocol_line
from flows.commands.printing import console, print_line, stderr
from flows.trained import use_task
from mirage_core.benchmarks.custom import jsonl_data
from mirage_core.config import OwnData
from mirage_core.evaluation.predictions_file import read_outputs, score_outputs
from mirage_core.evaluation.summary import benchmark_summary
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
    judge: str | None = None,
    judge_model: str | None = None,
    partial: bool,
    save: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Score a file of predictions, and print accuracy with its interval, overall and per group."""
    opened = open_store(store)
    use_task(benchmark, None, opened)
    problems, source = benchmark_rows(benchmark, data, opened)
    outputs = read_outputs(predictions, benchmark, problems, partial=partial)
    use = Rescoring.of(benchmark, rule, judge, judge_model, [], opened)
    scored = score_outputs(benchmark, problems, outputs.texts, method=method or predictions.stem)
    scored, extra = use.applied(scored, problems) if use else (scored, {})
    if save is not None:
        save_predictions(save, scored)
    result = {
        **benchmark_summary(benchmark, scored),
        **extra,
        "data": source,
        "predictions": str(predictions),
        "missing": len(outputs.missing),
        "published": [
            {"label": number.label, "accuracy": number.accuracy, "source": number.source}
            for number in published.numbers(benchmark)
        ],
    }
    if as_json:
        console.print_json(json.dumps(result))
    else:
        show(result)


def benchmark_rows(benchmark: str, data: Path | None, store: Store) -> tuple[list[Problem], str]:
    """Return the problems in the order of the data's rows, and their source; of a custom file every line counts."""
    if benchmark == jsonl_data.NAME and data is not None:
        all_test = OwnData(file=str(data), test_share=1.0, validation_share=0.0)
        return [row.problem for row in jsonl_data.rows_of(all_test)], str(data)
    return problems_of(benchmark, data, store)


def show(result: dict[str, Any]) -> None:
    """Print the scores as a table, and published scores of other systems below it."""
    console.print(score_table(result))
    for row in result["protocol"]:
        if row["group"] == "all":
            print_line(protocol_line(row))
    if "judge" in result:
        print_line(judge_line(result["judge"]))
    if result["missing"]:
        stderr.print(f"{result['missing']} problems have no answer and are not counted (--partial)", style="yellow")
    for number in result["published"]:
        print_line(f"published  {number['accuracy']:.1%}  {number['label']} ({number['source']})")


def score_table(result: dict[str, Any]) -> Table:
    """Return one row per group, and one over all of them last."""
    table = Table("group", "accuracy", "95 % interval", "n", "unparsed", "rule", box=None, pad_edge=False)
    for row in [*result["groups"], {**result, "group": "all"}]:
        low, high = row["interval"]
        table.add_row(
            row["group"], f"{row['accuracy']:.1%}", f"{low:.1%} to {high:.1%}", str(row["n"]), str(row["unparsed"]),
            result["rule"],
        )  # fmt: skip
    return table
