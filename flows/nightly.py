"""The flow ``mirage-evaluation``: the published model, target and compared. Deployment: mirage-evaluation/nightly."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from pydantic import Field

from flows.heartbeat import undo_false_crash
from flows.pointers import NIGHTLY, EvaluationTarget, pointer_target
from flows.steps import lost_artifact_logger, prefect_step, run_task
from mirage_core.distributed.launch import cancel_jobs_on_interrupt
from mirage_core.errors import MirageError, SignificantDrop
from mirage_core.evaluation.compare import problems_digest
from mirage_core.pipeline.diagnose import DiagnosisTarget, diagnose_target, save_diagnosis_record, select_measures
from mirage_core.pipeline.recovery import reruns_on_lost_artifact
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.run_record import scores_of
from mirage_core.pipeline.stages.diagnosis import FIGURES
from mirage_core.pipeline.trend import (
    ALPHA,
    Comparison,
    LatentsSummary,
    TrendPoint,
    drop_message,
    latents_summary,
    load_points,
    not_measured,
    now,
    reference_to,
    save_point,
    with_comparison,
)
from mirage_core.pipeline.trend_report import page_url, write_trend
from mirage_core.store import Store
from mirage_core.store.records import load_problems
from mirage_core.types import Artifact
from tasks.paths import open_store, store_url
from tasks.ui_artifacts import comparison_markdown, scores_markdown, trend_markdown


@flow(name="mirage-evaluation", persist_result=False)
def mirage_evaluation(
    pointer: str = NIGHTLY, alpha: Annotated[float, Field(gt=0, lt=1)] = ALPHA, diagnose: bool = False
) -> dict[str, Any]:
    """Evaluate the model that a pointer names, compare it with the night before, and add the night to the trend.

    A significant drop fails the run. A night on which nothing has changed is Cached.

    Args:
        pointer: The pointer that names the model in the store. `mirage run --publish-as` and `mirage store point` move
            it, this flow never does.
        alpha: A drop is significant when its p-value, corrected for the number of benchmarks, is below this level.
            Then the run ends Failed, after everything has been written.
        diagnose: Also measure whether the model's latents matter: one more line of the trend, and a diagnosis page.
            It does not count as a drop; where it fails, the night goes on and the trend shows why.
    """
    store = open_store()
    target = pointer_target(store, pointer)
    with undo_false_crash(), cancel_jobs_on_interrupt():
        for attempt in reruns_on_lost_artifact(lost_artifact_logger()):
            with attempt:
                point = tonight(store, pointer, target, alpha)
        if diagnose:
            point = point.model_copy(update={"latents": latents_tonight(store, target, point)})

    plot = write_trend(store, pointer, save_point(store, point))
    show_night(point, plot, page_url(store, pointer))
    if point.comparison.drops:
        raise SignificantDrop(drop_message(point, page_url(store, pointer)))
    get_run_logger().info("%s: %s", pointer, point.comparison.said)
    return point.model_dump(mode="json")


def show_night(point: TrendPoint, plot_png: bytes, page: str) -> None:
    """Show the artifacts ``nightly-scores``, ``nightly-comparison`` and ``nightly-trend`` in the UI."""
    create_markdown_artifact(
        scores_markdown(point.scores), key="nightly-scores", description=f"{point.method}, {point.model.path}"
    )
    create_markdown_artifact(
        comparison_markdown(point), key="nightly-comparison", description=point.comparison.said[:200]
    )
    create_markdown_artifact(
        trend_markdown(point, plot_png, page), key="nightly-trend", description="Accuracy over time"
    )


def tonight(store: Store, pointer: str, target: EvaluationTarget, alpha: float) -> TrendPoint:
    """Evaluate, and compare with the night before; write nothing but the stages' artifacts."""
    problems = target.problems or run_task("problems", {}, target.settings, store_url(), {})[0]
    inputs = {"model": target.model, "problems": problems}
    evaluation, cached = run_task("evaluation", {"method": target.method}, target.settings, store_url(), inputs)
    point = point_of(store, pointer, target, problems, evaluation, night=night_id(), cached=cached)
    return with_comparison(store, point, load_points(store, pointer), alpha)


def latents_tonight(store: Store, target: EvaluationTarget, point: TrendPoint) -> LatentsSummary:
    """Diagnose the night's model on the night's problems; an error is noted in the line and in the log."""
    problems = Artifact(kind="problems", path=point.problems.path, digest=point.problems.digest)
    try:
        measures = select_measures(target.settings, target.method, ())
        chosen = DiagnosisTarget(method=target.method, measures=measures, model=target.model, problems=problems)
        step = prefect_step(target.settings, store_url())
        for attempt in reruns_on_lost_artifact(lost_artifact_logger()):
            with attempt:
                page = diagnose_target(target.settings, chosen, step)["diagnosis"]
        save_diagnosis_record(store, page)
        return latents_summary(store, page, FIGURES)
    except MirageError as error:
        get_run_logger().warning("the latents could not be diagnosed tonight: %s", error)
        return not_measured(error)


def point_of(
    store: Store,
    pointer: str,
    target: EvaluationTarget,
    problems: Artifact,
    evaluation: Artifact,
    *,
    night: str,
    cached: bool,
) -> TrendPoint:
    """Return a night's point of the trend, not compared yet."""
    scores = scores_of([evaluation])
    stage = get_stage("evaluation")
    return TrendPoint(
        night=night,
        time=now(),
        pointer=pointer,
        method=target.method,
        model=reference_to(target.model),
        problems=reference_to(problems),
        test_problems=problems_digest(load_problems(store.fetch(problems), split="test")),
        rules={score.benchmark: score.rule or "" for score in scores},
        evaluation=reference_to(evaluation),
        cached=cached,
        use={"version": stage.version, **stage.identity(target.settings)},
        scores=scores,
        comparison=Comparison(outcome="first night", said="not compared yet"),
    )


def night_id() -> str:
    """Return the id of a night: its flow run, so that a retried run is the same night."""
    return str(flow_run.id)
