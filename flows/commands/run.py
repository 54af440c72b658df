"""``mirage run``: show the plan, run the pipeline in this process, or start the deployment and watch it."""

from __future__ import annotations

from pathlib import Path

from flows.commands.open_display import open_run_display
from flows.commands.printing import print_line
from flows.commands.report import show_record
from flows.commands.session import absolute_recipe, api_url, exit_on_sigterm, flow_environment, provide_teacher_key
from flows.commands.store import show_pointer
from flows.pointers import check_publishable, publish
from mirage_core.pipeline.pipeline import PlannedStage, plan
from mirage_core.pipeline.run_record import RunRecord, newest_record
from mirage_core.pipeline.runner import run_in_process
from mirage_core.recipes import dump, load
from mirage_core.store import Store
from tasks.paths import home, open_store, store_url

NO_FOLDER = "none"


def show_plan(recipe: str, sets: list[str], store: str | None) -> None:
    """Print the resolved settings and what a run would do; write nothing."""
    settings = load(recipe, sets)
    print_line(dump(settings))
    print_line(f"store: {store_url(store)}")
    for planned in plan(settings, open_store(store)):
        print_line(plan_line(planned))


def run_direct(
    recipe: str, sets: list[str], store: str | None, publish_as: str | None = None, model_folder: str | None = None
) -> None:
    """Run the pipeline in this process, without importing Prefect."""
    settings = load(recipe, sets)
    check_publishable(settings, publish_as)
    opened = open_store(store)
    display = open_run_display(recipe, sets, settings, opened)
    with provide_teacher_key(settings), exit_on_sigterm(), display:
        record = run_in_process(settings, opened, display.progress)
    show_record(record, opened)
    export_model(record, opened, model_folder)
    if publish_as:
        show_pointer(publish_as, publish(opened, publish_as, record))


def run_deployment(
    recipe: str, sets: list[str], store: str | None, publish_as: str | None = None, model_folder: str | None = None
) -> None:
    """Start mirage/full-pipeline, watch it to its end, then show its result."""
    settings = load(recipe, sets)  # a wrong setting is an error before anything starts
    check_publishable(settings, publish_as)
    from flows.watch import start_and_watch

    server, opened = api_url(), open_store(store)
    start_and_watch(
        server,
        "mirage/full-pipeline",
        parameters={"recipe": absolute_recipe(recipe), "overrides": sets, "publish_as": publish_as},
        environment=flow_environment(store),
        display=open_run_display(recipe, sets, settings, opened),
    )
    record = newest_record(opened)
    show_record(record, opened)
    export_model(record, opened, model_folder)
    print_line(f"the recipe was {settings.recipe}; show this again: mirage report")


def export_model(record: RunRecord, store: Store, chosen: str | None) -> None:
    """Export the furthest trained model with its card to the chosen folder.

    Without one, only a store on this machine is exported from: a remote model is not fetched unasked.
    """
    from flows.export import export_on_finish

    if chosen == NO_FOLDER:
        return
    if chosen is None and "://" in store.url:
        print_line("model: in the store; `mirage export MODEL FOLDER` fetches one with its card")
        return
    folder = Path(chosen).expanduser() if chosen else home() / "models" / record.recipe
    if export_on_finish(record, store, folder):
        print_line(f"model: {folder}  (mirage answer {folder} IMAGE)")


def plan_line(planned: PlannedStage) -> str:
    """Return one stage of the plan as a line."""
    if planned.cached:
        return f"cached    {planned.name:24} {planned.artifact.path if planned.artifact else ''}"
    return f"will run  {planned.name:24} {'' if planned.fingerprint else '(after the stages before it)'}".rstrip()
