"""The flow ``mirage``: from raw puzzles to an evaluated model and its report. Deployment: mirage/full-pipeline."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run

from flows.heartbeat import undo_false_crash
from flows.pointers import check_publishable, publish
from flows.steps import lost_artifact_logger, prefect_step
from mirage_core.distributed.launch import cancel_jobs_on_interrupt
from mirage_core.pipeline.recovery import reruns_on_lost_artifact
from mirage_core.pipeline.run_record import RunRecord
from mirage_core.pipeline.run_tracker import RunTracker
from mirage_core.pipeline.side_by_side import run_stages
from mirage_core.recipes import load
from mirage_core.types import Artifact
from tasks.paths import open_store, store_url
from tasks.ui_artifacts import run_markdown, scores_markdown, settings_markdown


@flow(name="mirage", persist_result=False)
def mirage(
    recipe: str = "tiny", overrides: list[str] | None = None, publish_as: str | None = None
) -> dict[str, Artifact]:
    """Run the whole pipeline of a recipe; every stage is a task, Cached where nothing it depends on has changed.

    Args:
        recipe: The settings to start from: micro (a minute), tiny, tiny-paper, small, qwen2.5-vl-3b, qwen2.5-vl-7b,
            qwen2.5-vl-7b-film, or the path of a YAML file that the worker can read.
        overrides: Settings that differ from the recipe's, one per item, such as `grpo.enabled=false`.
        publish_as: The pointer in the store that then names the furthest trained model, such as `nightly`, which the
            nightly evaluation judges. None: no pointer is moved.
    """
    settings = load(recipe, overrides or ())
    check_publishable(settings, publish_as)
    store = store_url()
    create_markdown_artifact(settings_markdown(settings), key="settings", description="The resolved settings")

    with (
        RunTracker(settings, open_store(store), str(flow_run.id)) as tracker,
        undo_false_crash(),
        cancel_jobs_on_interrupt(),
    ):
        for attempt in reruns_on_lost_artifact(lost_artifact_logger(tracker)):
            with attempt:
                artifacts = run_stages(settings, prefect_step(settings, store, tracker))

    show_results(tracker.record, artifacts.get("report"), store)
    if publish_as:
        publish(open_store(store), publish_as, tracker.record)
    return artifacts


def show_results(record: RunRecord, report: Artifact | None, store: str) -> None:
    """Show the score table and the run's stages among the UI's artifacts."""
    url = f"{store}/{report.path}" if report else None
    create_markdown_artifact(scores_markdown(record.scores), key="scores", description="Accuracy of every method")
    create_markdown_artifact(run_markdown(record, url), key="run", description="What the run did")
