"""``mirage run``: show the plan, walk the road in this process, or start the deployment and watch it."""

from __future__ import annotations

import os
import time

from flows.commands.printing import console
from flows.commands.report import show
from mirage_core.recipes import dump, load
from mirage_core.stages.direct import run_road
from mirage_core.stages.record import newest_record
from mirage_core.stages.road import PlannedStage, plan
from mirage_core.types import ProgressEvent
from tasks.lines import line_of
from tasks.places import home, open_store, store_url


def show_plan(recipe: str, sets: list[str], store: str | None) -> None:
    """Print the resolved settings and what a run would do; nothing is written."""
    settings = load(recipe, sets)
    console.print(dump(settings), markup=False)
    console.print(f"store: {store_url(store)}", markup=False)
    for planned in plan(settings, open_store(store)):
        console.print(plan_line(planned), markup=False)


def run_direct(recipe: str, sets: list[str], store: str | None) -> None:
    """Walk the road in this process; Prefect is not imported."""
    settings = load(recipe, sets)
    opened = open_store(store)
    record = run_road(settings, opened, DirectProgress())
    show(record, opened)


def run_deployment(recipe: str, sets: list[str], store: str | None) -> None:
    """Start mirage/full-pipeline, watch it to its end, then show what it gave."""
    settings = load(recipe, sets)  # a wrong setting is said here, before anything starts
    connect_to_prefect()
    from flows.watch import start_and_watch

    start_and_watch(
        "mirage/full-pipeline",
        parameters={"recipe": absolute(recipe), "overrides": sets},
        environment={"MIRAGE_STORE": store_url(store), "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json"},
        say=lambda line, style=None: console.print(line, style=style, markup=False),
    )
    opened = open_store(store)
    show(newest_record(opened), opened)
    console.print(f"the recipe was {settings.recipe}; again: mirage report", markup=False)


def connect_to_prefect() -> None:
    """Point Prefect's client at the running server; before Prefect is imported."""
    from flows.commands.stack import api_url

    os.environ["PREFECT_API_URL"] = api_url()
    os.environ.setdefault("PREFECT_HOME", str(home() / "prefect"))


def absolute(recipe: str) -> str:
    """A recipe's name as it is; a file's path made absolute, since the worker has a working folder of its own."""
    return os.path.abspath(recipe) if os.path.isfile(recipe) else recipe


def plan_line(planned: PlannedStage) -> str:
    """One stage of the plan in words."""
    if planned.cached:
        return f"cached    {planned.name:24} {planned.artifact.path if planned.artifact else ''}"
    return f"will run  {planned.name:24} {'' if planned.fingerprint else '(after the stages before it)'}".rstrip()


class DirectProgress:
    """Prints a stage's progress events: steps a few seconds apart, everything else at once."""

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s = every_s
        self._spoken = float("-inf")

    def __call__(self, event: ProgressEvent) -> None:
        """Print one event."""
        now = time.monotonic()
        if event.step is None or event.step == event.total or now - self._spoken >= self._every_s:
            self._spoken = now
            console.print(line_of(event.stage, event), markup=False)
