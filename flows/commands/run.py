"""``mirage run``: show the plan, walk the road in this process, or start the deployment and watch it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from flows.commands.point import show_pointer
from flows.commands.printing import console
from flows.commands.report import show
from flows.pointed import check_publishable, publish
from mirage_core.config import Settings
from mirage_core.recipes import dump, load
from mirage_core.stages.direct import run_road
from mirage_core.stages.record import RunRecord, newest_record
from mirage_core.stages.road import PlannedStage, plan
from mirage_core.store import Store
from mirage_core.teacher.keys import keys_from
from mirage_core.types import ProgressEvent
from tasks.keys import read_key
from tasks.lines import line_of
from tasks.places import home, open_store, store_url, variable

NOWHERE = "none"


def show_plan(recipe: str, sets: list[str], store: str | None) -> None:
    """Print the resolved settings and what a run would do; nothing is written."""
    settings = load(recipe, sets)
    console.print(dump(settings), markup=False)
    console.print(f"store: {store_url(store)}", markup=False)
    for planned in plan(settings, open_store(store)):
        console.print(plan_line(planned), markup=False)


def run_direct(
    recipe: str, sets: list[str], store: str | None, publish_as: str | None = None, model_folder: str | None = None
) -> None:
    """Walk the road in this process; Prefect is not imported."""
    settings = load(recipe, sets)
    check_publishable(settings, publish_as)
    opened = open_store(store)
    with keys_of(settings), ended_by_sigterm():
        record = run_road(settings, opened, DirectProgress())
    show(record, opened)
    leave_model(record, opened, model_folder)
    if publish_as:
        show_pointer(publish_as, publish(opened, publish_as, record))


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block: training finishes its step and saves, the record is written; exit status 143."""

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_deployment(
    recipe: str, sets: list[str], store: str | None, publish_as: str | None = None, model_folder: str | None = None
) -> None:
    """Start mirage/full-pipeline, watch it to its end, then show what it gave."""
    settings = load(recipe, sets)  # a wrong setting is said here, before anything starts
    check_publishable(settings, publish_as)
    connect_to_prefect()
    from flows.watch import start_and_watch

    start_and_watch(
        "mirage/full-pipeline",
        parameters={"recipe": absolute(recipe), "overrides": sets, "publish_as": publish_as},
        environment=environment(store),
        say=lambda line, style=None: console.print(line, style=style, markup=False),
    )
    opened = open_store(store)
    record = newest_record(opened)
    show(record, opened)
    leave_model(record, opened, model_folder)
    console.print(f"the recipe was {settings.recipe}; again: mirage report", markup=False)


def leave_model(record: RunRecord, store: Store, chosen: str | None) -> None:
    """Leave the furthest trained model with its card where asked; by default only of a store on this machine.

    From a remote store it would have to be fetched, which nobody asked for: then the command that does is said.
    """
    from flows.take_away import take_away

    if chosen == NOWHERE:
        return
    if chosen is None and "://" in store.url:
        console.print("model: in the store; `mirage export MODEL FOLDER` fetches one with its card", markup=False)
        return
    folder = Path(chosen).expanduser() if chosen else home() / "models" / record.recipe
    if take_away(record, store, folder):
        console.print(f"model: {folder}  (mirage answer {folder} PICTURE)", markup=False)


def environment(store: str | None) -> dict[str, str]:
    """What the flow's process is told, and the UI shows: where the store is, and which block has its keys."""
    block = variable("MIRAGE_S3_BLOCK")
    told = {"MIRAGE_STORE": store_url(store), "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json"}
    return {**told, **({"MIRAGE_S3_BLOCK": block} if block else {})}


def keys_of(settings: Settings) -> AbstractContextManager[None]:
    """Let the work inside read the teacher's key; one that lies in a block needs the running server."""
    if settings.teacher.kind == "endpoint" and settings.runtime.teacher.api_key_block is not None:
        connect_to_prefect()
    return keys_from(read_key)


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
