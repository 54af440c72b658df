"""``mirage run``: show the plan, walk the road in this process, or start the deployment and watch it."""

from __future__ import annotations

from pathlib import Path

from flows.commands.point import show_pointer
from flows.commands.printing import console
from flows.commands.report import show
from flows.commands.session import DirectProgress, absolute, connect_to_prefect, ended_by_sigterm, environment, keys_of
from flows.pointers import check_publishable, publish
from mirage_core.pipeline.pipeline import PlannedStage, plan
from mirage_core.pipeline.run_record import RunRecord, newest_record
from mirage_core.pipeline.runner import run_road
from mirage_core.recipes import dump, load
from mirage_core.store import Store
from tasks.paths import home, open_store, store_url

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
    from flows.export_on_finish import take_away

    if chosen == NOWHERE:
        return
    if chosen is None and "://" in store.url:
        console.print("model: in the store; `mirage export MODEL FOLDER` fetches one with its card", markup=False)
        return
    folder = Path(chosen).expanduser() if chosen else home() / "models" / record.recipe
    if take_away(record, store, folder):
        console.print(f"model: {folder}  (mirage answer {folder} PICTURE)", markup=False)


def plan_line(planned: PlannedStage) -> str:
    """One stage of the plan in words."""
    if planned.cached:
        return f"cached    {planned.name:24} {planned.artifact.path if planned.artifact else ''}"
    return f"will run  {planned.name:24} {'' if planned.fingerprint else '(after the stages before it)'}".rstrip()
