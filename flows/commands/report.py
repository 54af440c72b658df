"""``mirage report``: the figures of a run or, with ``--trend``, of the nights of a pointer, and their pages."""

from __future__ import annotations

import json
import re
import tempfile
import webbrowser
from pathlib import Path

from rich.table import Table

from flows.commands.printing import console, print_line
from mirage_core.errors import ArtifactError, ArtifactMissing, InputError
from mirage_core.evaluation.metrics import ALL
from mirage_core.pipeline.run_record import RunRecord, load_record, newest_record
from mirage_core.pipeline.trend import TrendPoint, describe_change, load_points
from mirage_core.pipeline.trend_report import PAGE, page_url
from mirage_core.pipeline.trend_report import as_json as night_as_json
from mirage_core.store import Store
from tasks.paths import open_store


def report(run_id: str | None, store: str | None, *, as_json: bool, open_page: bool) -> None:
    """Print the record of a run, as a table or as JSON; ``open_page`` opens its page in a browser."""
    opened = open_store(store)
    record = load_record(opened, f"runs/{check_run_id(run_id)}.json") if run_id else newest_record(opened)
    if as_json:
        console.print_json(json.dumps(record.model_dump(mode="json")))
    else:
        show_record(record, opened)
    if open_page:
        page = report_page(record, opened)
        if page is None:
            raise ArtifactError(f"run {record.id} made no report (state: {record.state}): mirage run makes one")
        webbrowser.open(page.as_uri())


def show_record(record: RunRecord, store: Store) -> None:
    """Print the stages, the score table, and the page's path."""
    print_line(f"run {record.id}  recipe {record.recipe}  {record.state} in {record.wall_seconds:.0f} s")
    stages = Table("stage", "state", "seconds", "artifact", box=None, pad_edge=False)
    for stage in record.stages:
        stages.add_row(stage.name, stage.state, f"{stage.seconds:.1f}", stage.path or stage.error or "")
    console.print(stages)
    if record.scores:
        console.print(score_table(record))
    page = report_page(record, store)
    if page:
        print_line(f"report: {page}")


def score_table(record: RunRecord) -> Table:
    """Return accuracy with its 95 % interval and the number of unparsed answers, one row per score."""
    table = Table(
        "benchmark", "level", "method", "accuracy", "95 % interval", "n", "unparsed", box=None, pad_edge=False
    )
    for score in record.scores:
        low, high = score.interval
        table.add_row(
            score.benchmark, score.level, score.method, f"{score.accuracy:.1%}", f"{low:.1%} to {high:.1%}",
            str(score.n), str(score.unparsed),
        )  # fmt: skip
    return table


def report_page(record: RunRecord, store: Store) -> Path | None:
    """Return the report's page as a local file; None where the run made none."""
    path = next((stage.path for stage in record.stages if stage.name == "report" and stage.path), None)
    if path is None:
        return None
    folder = store.fetch(store.get(path))
    return next(iter(sorted(folder.glob("*.html"))), None)


def check_run_id(run_id: str) -> str:
    """Return a run's id; InputError where it is none."""
    if not re.fullmatch(r"[0-9TZ.]+-[0-9a-f]+", run_id):
        raise InputError(f"got the run {run_id!r}, expected an id such as 20260102T030405.000000Z-ab12cd")
    return run_id


def report_trend(pointer: str, store: str | None, *, as_json: bool, open_page: bool) -> None:
    """Print the nights of a pointer as a table or as JSON; ``open_page`` opens their page in a browser."""
    opened = open_store(store)
    points = load_points(opened, pointer)
    if not points:
        raise ArtifactMissing(
            f"no night of {pointer!r} in {opened.url} yet: publish a model with `mirage run --publish-as {pointer}`, "
            "then: prefect deployment run mirage-evaluation/nightly"
        )
    page = page_url(opened, pointer)
    if as_json:
        console.print_json(json.dumps({"pointer": pointer, "nights": [night_as_json(point) for point in points]}))
    else:
        console.print(trend_table(points))
        for change in points[-1].comparison.changes:
            print_line(describe_change(change))
        print_line(f"page: {page}")
    if open_page:
        local = Path(tempfile.mkdtemp(prefix="mirage-trend-")) / PAGE  # the store may be on another machine
        local.write_bytes(opened.backend.read(page.removeprefix(f"{opened.url}/")))
        webbrowser.open(local.as_uri())


def trend_table(points: list[TrendPoint]) -> Table:
    """Return one row per night, oldest first."""
    benchmarks = sorted({score.benchmark for point in points for score in point.scores})
    table = Table("night (UTC)", "model", "method", *benchmarks, "outcome", box=None, pad_edge=False)
    for point in points:
        accuracy = {score.benchmark: f"{score.accuracy:.1%}" for score in point.scores if score.level == ALL}
        drops = ", ".join(change.benchmark for change in point.comparison.drops)
        outcome = f"drop: {drops}" if drops else point.comparison.outcome
        cells = [accuracy.get(name, "-") for name in benchmarks]
        table.add_row(point.time, point.model.digest[:12], point.method, *cells, outcome)
    return table
