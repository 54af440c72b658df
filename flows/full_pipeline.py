"""The flow ``mirage``: from raw puzzles to an evaluated model and its report. Deployment: mirage/full-pipeline."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows.heartbeat import said_to_live
from flows.pointers import check_publishable, publish
from flows.steps import lost_said, prefect_step
from mirage_core.distributed.launch import ending_jobs
from mirage_core.pipeline.pipeline import road
from mirage_core.pipeline.recovery import healed
from mirage_core.pipeline.run_record import RunRecord
from mirage_core.pipeline.run_tracker import RunBook
from mirage_core.recipes import load
from mirage_core.types import Artifact
from tasks.paths import open_store, store_url
from tasks.pictures import run_markdown, scores_markdown, settings_markdown


@flow(name="mirage", persist_result=False, result_serializer="json", validate_parameters=True)
def mirage(
    recipe: str = "tiny", overrides: list[str] | None = None, publish_as: str | None = None
) -> dict[str, Artifact]:
    """Walk the whole road of a recipe; every stage is a task, skipped where nothing it depends on has changed.

    Args:
        recipe: The settings to start from: micro (a minute), tiny, tiny-causal, small, qwen2.5-vl-3b, qwen2.5-vl-7b,
            or the path of a YAML file that the worker can read.
        overrides: Settings that differ from the recipe's, one an item, such as `grpo.enabled=false`.
        publish_as: The pointer of the store that the furthest trained model is then known by, such as `nightly`,
            which is what the nightly evaluation judges. None: no pointer is moved.
    """
    settings = load(recipe, overrides or ())
    check_publishable(settings, publish_as)
    store = store_url()
    create_markdown_artifact(settings_markdown(settings), key="settings", description="The resolved settings")

    with RunBook(settings, open_store(store), str(flow_run.id)) as book, said_to_live(), ending_jobs():
        made = healed(lambda: road(settings, prefect_step(settings, store, book)), lost_said(book))

    show_results(book.record, made.get("report"), store)
    if publish_as:
        publish(open_store(store), publish_as, book.record)
    return made


def show_results(record: RunRecord, report: Artifact | None, store: str) -> None:
    """Leave the score table, and what the run did, among the UI's artifacts."""
    place = f"{store}/{report.path}" if report else None
    create_markdown_artifact(scores_markdown(record.scores), key="scores", description="Accuracy of every method")
    create_markdown_artifact(run_markdown(record, place), key="run", description="What the run did")
