"""``mirage report --trend NAME``: the nights of a pointer, how each went against the one before, and their page."""

from __future__ import annotations

import json
import tempfile
import webbrowser
from pathlib import Path

from rich.table import Table

from flows.commands.printing import console
from mirage_core.errors import ArtifactMissing
from mirage_core.evaluation.metrics import ALL
from mirage_core.pipeline.trend import TrendPoint, in_words, load_points
from mirage_core.pipeline.trend_report import PAGE, page_of
from mirage_core.pipeline.trend_report import as_json as told
from tasks.paths import open_store


def trend(pointer: str, store: str | None, *, as_json: bool, open_page: bool) -> None:
    """Print the nights as a table or as JSON; open their page where asked."""
    opened = open_store(store)
    points = load_points(opened, pointer)
    if not points:
        raise ArtifactMissing(
            f"no night of {pointer!r} in {opened.url} yet: publish a model with `mirage run --publish-as {pointer}`, "
            "then: prefect deployment run mirage-evaluation/nightly"
        )
    if as_json:
        console.print_json(json.dumps({"pointer": pointer, "nights": [told(point) for point in points]}))
    else:
        console.print(table(points))
        for change in points[-1].comparison.changes:
            console.print(in_words(change), markup=False)
        console.print(f"page: {page_of(opened, pointer)}", markup=False)
    if open_page:
        webbrowser.open(local_copy(opened.place.read(page_of(opened, pointer).removeprefix(f"{opened.url}/"))).as_uri())


def table(points: list[TrendPoint]) -> Table:
    """A night a row, oldest first."""
    benchmarks = sorted({score.benchmark for point in points for score in point.scores})
    shown = Table("night (UTC)", "model", "method", *benchmarks, "outcome", box=None, pad_edge=False)
    for point in points:
        accuracy = {score.benchmark: f"{score.accuracy:.1%}" for score in point.scores if score.level == ALL}
        drops = ", ".join(change.benchmark for change in point.comparison.drops)
        outcome = f"drop: {drops}" if drops else point.comparison.outcome
        cells = [accuracy.get(name, "-") for name in benchmarks]
        shown.add_row(point.time, point.model.digest[:12], point.method, *cells, outcome)
    return shown


def local_copy(page: bytes) -> Path:
    """The page as a file a browser can open: the store may be elsewhere."""
    path = Path(tempfile.mkdtemp(prefix="mirage-trend-")) / PAGE
    path.write_bytes(page)
    return path
