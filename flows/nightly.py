"""The flow ``mirage-evaluation``: the published model, judged and compared. Deployment: mirage-evaluation/nightly."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from flows.diagnosis import measured
from flows.heartbeat import said_to_live
from flows.pointers import NIGHTLY, Subject, subject
from flows.steps import lost_said, run_task
from flows.trend import show_night
from mirage_core.distributed.launch import ending_jobs
from mirage_core.errors import MirageError, SignificantDrop
from mirage_core.evaluation.regression import problems_digest
from mirage_core.pipeline.diagnose import Diagnosed, chosen_measures, keep_record
from mirage_core.pipeline.recovery import healed
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.run_record import scores_of
from mirage_core.pipeline.stages.diagnosis import FIGURES
from mirage_core.pipeline.trend import (
    ALPHA,
    Comparison,
    LatentsLine,
    TrendPoint,
    compared,
    drop_message,
    latents_line,
    load_points,
    not_measured,
    now,
    reference_to,
    save_point,
)
from mirage_core.pipeline.trend_report import page_of, write_trend
from mirage_core.store import Store
from mirage_core.store.records import load_problems
from mirage_core.types import Artifact
from tasks.paths import open_store, store_url


@flow(name="mirage-evaluation", persist_result=False, result_serializer="json")
def mirage_evaluation(
    pointer: str = NIGHTLY, alpha: Annotated[float, Field(gt=0, lt=1)] = ALPHA, diagnose: bool = False
) -> dict[str, Any]:
    """Evaluate what the pointer names, compare it with the night before, add to the trend; a drop fails the run.

    A night on which nothing has changed is Cached.

    Args:
        pointer: What names the model in the store. `mirage run --publish-as` and `mirage store point` move it, this
            flow never does.
        alpha: A drop is significant when its p-value, corrected for the number of benchmarks, is below this level:
            then the run ends Failed, after everything has been written.
        diagnose: Measure too whether the model's latents matter: one more line of the trend, and the page of a
            diagnosis. It has no part in what counts as a drop, and where it fails the night goes on and tells why.
    """
    store = open_store()
    judged = subject(store, pointer)
    with said_to_live(), ending_jobs():
        point = healed(lambda: tonight(store, pointer, judged, alpha), lost_said())
        if diagnose:
            point = point.model_copy(update={"latents": latents_tonight(store, judged, point)})

    plot = write_trend(store, pointer, save_point(store, point))
    show_night(point, plot, page_of(store, pointer))
    if point.comparison.drops:
        raise SignificantDrop(drop_message(point, page_of(store, pointer)))
    get_run_logger().info("%s: %s", pointer, point.comparison.said)
    return point.model_dump(mode="json")


def tonight(store: Store, pointer: str, judged: Subject, alpha: float) -> TrendPoint:
    """Evaluate, and compare with the night before; nothing is written but the stages' artifacts."""
    problems = judged.problems or run_task("problems", {}, judged.settings, store_url(), {})[0]
    inputs = {"model": judged.model, "problems": problems}
    evaluation, cached = run_task("evaluation", {"method": judged.method}, judged.settings, store_url(), inputs)
    point = point_of(store, pointer, judged, problems, evaluation, night=night_id(), cached=cached)
    return compared(store, point, load_points(store, pointer), alpha)


def latents_tonight(store: Store, judged: Subject, point: TrendPoint) -> LatentsLine:
    """Diagnose the night's model on the night's problems; what goes wrong is told in the line and in the log."""
    problems = Artifact(kind="problems", path=point.problems.path, digest=point.problems.digest)
    try:
        measures = chosen_measures(judged.settings, judged.method, ())
        chosen = Diagnosed(method=judged.method, measures=measures, model=judged.model, problems=problems)
        page = healed(lambda: measured(judged.settings, chosen), lost_said())["diagnosis"]
        keep_record(store, page)
        return latents_line(store, page, FIGURES)
    except MirageError as error:
        get_run_logger().warning("the latents could not be diagnosed tonight: %s", error)
        return not_measured(error)


def point_of(
    store: Store,
    pointer: str,
    judged: Subject,
    problems: Artifact,
    evaluation: Artifact,
    *,
    night: str,
    cached: bool,
) -> TrendPoint:
    """A night's point, not compared yet."""
    scores = scores_of([evaluation])
    stage = get_stage("evaluation")
    return TrendPoint(
        night=night,
        time=now(),
        pointer=pointer,
        method=judged.method,
        model=reference_to(judged.model),
        problems=reference_to(problems),
        test_problems=problems_digest(load_problems(store.fetch(problems), split="test")),
        rules={score.benchmark: score.rule or "" for score in scores},
        evaluation=reference_to(evaluation),
        cached=cached,
        use={"version": stage.version, **stage.identity(judged.settings)},
        scores=scores,
        comparison=Comparison(outcome="first night", said="not compared yet"),
    )


def night_id() -> str:
    """What a night is known by: its flow run, so that a run that is tried again is the same night."""
    return str(flow_run.id)
