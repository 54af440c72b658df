"""The flow ``mirage-evaluation``: the newest trained model, judged. Deployment: mirage-evaluation/nightly."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.steps import run_task
from flows.trained import artifact_of, newest_trained, settings_of, trained_step
from mirage_core.stages.record import RunRecord, ScoreLine, scores_of
from mirage_core.types import Artifact
from tasks.pictures import scores_markdown
from tasks.places import open_store, store_url

TREND = "trend/"


@flow(name="mirage-evaluation", persist_result=False, result_serializer="json")
def mirage_evaluation(recipe: str | None = None) -> dict[str, Any]:
    """Evaluate the newest trained model (of ``recipe``, or of any) on its test problems; adds a point to the trend.

    A night on which neither the model nor the problems nor the evaluation's code have changed gives the Cached
    evaluation: its point in the trend says so.
    """
    store = open_store()
    record = newest_trained(store, recipe)
    settings = settings_of(record.settings, f"run {record.id}")
    step, method = trained_step(record)
    model, problems = artifact_of(store, record, step), artifact_of(store, record, "problems")
    inputs = {"model": model, "problems": problems}
    evaluation, cached = run_task("evaluation", {"method": method}, settings, store_url(), inputs)

    scores = scores_of([evaluation])
    create_markdown_artifact(scores_markdown(scores), key="nightly-scores", description=f"{method} of {record.recipe}")
    point = trend_point(record, method, model, evaluation, cached, scores)
    store.write_json(f"{TREND}{point['time'].replace(':', '')}.json", point)
    return point


def trend_point(
    record: RunRecord, method: str, model: Artifact, evaluation: Artifact, cached: bool, scores: tuple[ScoreLine, ...]
) -> dict[str, Any]:
    """One night's line of the trend."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": record.id,
        "recipe": record.recipe,
        "method": method,
        "model": {"path": model.path, "digest": model.digest},
        "evaluation": {"path": evaluation.path, "digest": evaluation.digest, "cached": cached},
        "scores": [score.model_dump(mode="json") for score in scores],
    }
