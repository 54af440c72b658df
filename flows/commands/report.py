"""``mirage report``: the newest run's figures, and where its page is."""

from __future__ import annotations

import json
import re
import webbrowser
from pathlib import Path

from rich.table import Table

from flows.commands.printing import console
from mirage_core.errors import ArtifactError, InputError
from mirage_core.pipeline.run_record import RunRecord, load_record, newest_record
from mirage_core.store import Store
from tasks.paths import open_store


def report(run_id: str | None, store: str | None, *, as_json: bool, open_page: bool) -> None:
    """Print the record of a run, as a table or as JSON; open its page where asked."""
    opened = open_store(store)
    record = load_record(opened, f"runs/{checked(run_id)}.json") if run_id else newest_record(opened)
    if as_json:
        console.print_json(json.dumps(record.model_dump(mode="json")))
    else:
        show(record, opened)
    if open_page:
        page = page_of(record, opened)
        if page is None:
            raise ArtifactError(f"run {record.id} made no report (state: {record.state}): mirage run makes one")
        webbrowser.open(page.as_uri())


def show(record: RunRecord, store: Store) -> None:
    """The stages, the score table, and the page's path."""
    console.print(
        f"run {record.id}  recipe {record.recipe}  {record.state} in {record.wall_seconds:.0f} s", markup=False
    )
    stages = Table("stage", "state", "seconds", "artifact", box=None, pad_edge=False)
    for stage in record.stages:
        stages.add_row(stage.name, stage.state, f"{stage.seconds:.1f}", stage.path or stage.error or "")
    console.print(stages)
    if record.scores:
        console.print(score_table(record))
    page = page_of(record, store)
    if page:
        console.print(f"report: {page}", markup=False)


def score_table(record: RunRecord) -> Table:
    """Accuracy with its 95 % interval, unparsed answers apart."""
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


def page_of(record: RunRecord, store: Store) -> Path | None:
    """The report's page as a local file; None where the run made none."""
    line = next((stage for stage in record.stages if stage.name == "report" and stage.path), None)
    if line is None or line.path is None:
        return None
    folder = store.fetch(store.get(line.path))
    return next(iter(sorted(folder.glob("*.html"))), None)


def checked(run_id: str) -> str:
    """A run's id that is only a name; InputError otherwise."""
    if not re.fullmatch(r"[0-9TZ.]+-[0-9a-f]+", run_id):
        raise InputError(f"got the run {run_id!r}, expected an id such as 20260102T030405.000000Z-ab12cd")
    return run_id
