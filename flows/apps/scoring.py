"""``mirage score`` and ``mirage compare``: answers of any system, judged and set side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.apps.options import JsonOption, StoreOption

BenchmarkOption = Annotated[str, typer.Option(help="Whose problems, rows and rules.")]


def score(
    benchmark: BenchmarkOption,
    predictions: Annotated[Path, typer.Option(help="A JSONL file of {row, output}, rows counted from 0.")],
    data: Annotated[
        Path | None,
        typer.Option(help="The benchmark's rows: a file, a folder or a hub id. [default: the test problems]"),
    ] = None,
    method: Annotated[str | None, typer.Option(help="What to call the system. [default: the file's name]")] = None,
    rule: Annotated[str | None, typer.Option(help="The scoring rule. [default: the benchmark's first]")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Score what is there; rows may be missing.")] = False,
    save: Annotated[Path | None, typer.Option(help="Keep the judged answers as parquet, for `mirage compare`.")] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score answers that another system gave, with the scorers and intervals of every evaluation."""
    from flows.commands import score as command

    command.score(
        benchmark, data, predictions, method=method, rule=rule, partial=partial, save=save, store=store, as_json=as_json
    )


def compare(
    first: Annotated[str, typer.Argument(help="An evaluation, a model, a parquet or JSONL file of predictions.")],
    second: Annotated[str, typer.Argument(help="The other one.")],
    benchmark: Annotated[str | None, typer.Option(help="Whose answers JSONL files hold.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="The benchmark's rows; also shows the problems of parquet files on the page.")
    ] = None,
    rule: Annotated[str | None, typer.Option(help="The scoring rule of JSONL files. [default: the first]")] = None,
    common: Annotated[bool, typer.Option("--common", help="Compare the problems that both answered.")] = False,
    page: Annotated[Path | None, typer.Option(help="Write a page with trajectories side by side.")] = None,
    shown: Annotated[int, typer.Option(min=0, help="Problems shown on the page.")] = 24,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two systems on the same problems: accuracies, McNemar's test, what flipped, trajectories in pairs."""
    from flows.commands import compare as command

    command.compare(
        (first, second), benchmark, data, rule=rule, common=common, page=page, shown=shown, store=store, as_json=as_json
    )
