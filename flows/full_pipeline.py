"""The flow ``mirage``: from raw puzzles to an evaluated model and its report. Deployment: mirage/full-pipeline."""

from __future__ import annotations

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.steps import prefect_step
from mirage_core.recipes import load
from mirage_core.stages.book import RunBook
from mirage_core.stages.record import RunRecord
from mirage_core.stages.road import road
from mirage_core.types import Artifact
from tasks.pictures import run_markdown, scores_markdown, settings_markdown
from tasks.places import open_store, store_url


@flow(name="mirage", persist_result=False, result_serializer="json", validate_parameters=True)
def mirage(recipe: str = "tiny", overrides: list[str] | None = None) -> dict[str, Artifact]:
    """Walk the whole road of a recipe; every stage is a task, skipped where nothing it depends on has changed.

    Parameters: ``recipe`` is a recipe's name or a YAML file; ``overrides`` are settings such as
    ``grpo.enabled=false``.
    """
    settings = load(recipe, overrides or ())
    store = store_url()
    create_markdown_artifact(settings_markdown(settings), key="settings", description="The resolved settings")

    with RunBook(settings, open_store(store)) as book:
        made = road(settings, prefect_step(settings, store, book))

    show_results(book.record, made.get("report"), store)
    return made


def show_results(record: RunRecord, report: Artifact | None, store: str) -> None:
    """Leave the score table, and what the run did, among the UI's artifacts."""
    place = f"{store}/{report.path}" if report else None
    create_markdown_artifact(scores_markdown(record.scores), key="scores", description="Accuracy of every method")
    create_markdown_artifact(run_markdown(record, place), key="run", description="What the run did")
