"""The flow ``mirage-study`` of a diagnosis: do a model's latents matter? Deployment: mirage-study/diagnosis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.diagnosis_target import diagnosed
from flows.heartbeat import said_to_live
from flows.steps import lost_said, run_task
from mirage_core.config import Method, Settings
from mirage_core.distributed.launch import ending_jobs
from mirage_core.pipeline.diagnose import Diagnosed, keep_record, walked
from mirage_core.pipeline.recovery import healed
from mirage_core.pipeline.stage import label
from mirage_core.store import Store
from mirage_core.types import Artifact
from tasks.diagnosis_tables import runs_table, verdict_markdown
from tasks.paths import open_store, store_url
from tasks.pictures import settings_markdown

Measure = Literal["similarity", "probes", "interventions", "mediation", "only-latents", "text-chain"]


@flow(
    name="mirage-study",
    flow_run_name="diagnosis-{recipe}{model}",
    persist_result=False,
    result_serializer="json",
    validate_parameters=True,
)
def diagnosis(
    recipe: str = "tiny",
    overrides: tuple[str, ...] = (),
    method: Method | None = None,
    model: str = "",
    problems: str = "",
    measures: tuple[Measure, ...] = (),
) -> dict[str, Artifact]:
    """Measure whether a model's latents carry the input (X -> Z) and drive the answer (Z -> Y), and write the page.

    Every measure is a task of its own, Cached where nothing it depends on has changed.

    Args:
        recipe: The recipe whose model is diagnosed, trained where it is not there yet: micro (a minute), tiny, ..., or
            the path of a YAML file that the worker can read. Not used where a model is chosen.
        overrides: Settings that differ from the recipe's, one an item, such as `analysis.instances=400`; of a chosen
            model analysis.*, evaluation.* and runtime.* alone.
        method: Whose model of the recipe. Empty: the furthest that answers with latents.
        model: A model instead of a recipe: its path in the store, the start of its digest, or a pointer such as
            `nightly`.
        problems: Problems instead of the model's own: a path or the start of a digest.
        measures: The measures to take. Empty: those of `analysis.measures`.
    """
    store = open_store()
    settings, chosen = diagnosed(
        store, recipe=recipe, overrides=overrides, method=method, model=model, problems=problems, measures=measures
    )
    create_markdown_artifact(settings_markdown(settings), key="settings", description="The resolved settings")
    with said_to_live(), ending_jobs():
        made = healed(lambda: measured(settings, chosen), lost_said())
    keep_record(store, made["diagnosis"])
    show(store, made)
    return made


def measured(settings: Settings, chosen: Diagnosed) -> dict[str, Artifact]:
    """Walk to the page, every stage a task."""

    def step(name: str, params: Mapping[str, Any], /, **inputs: Artifact) -> Artifact:
        artifact, cached = run_task(name, params, settings, store_url(), inputs)
        get_run_logger().info("%s: %s%s", label(name, params), artifact.path, " (cached)" if cached else "")
        return artifact

    return walked(settings, chosen, step)


def show(store: Store, made: Mapping[str, Artifact]) -> None:
    """Leave the verdict, and the interventions as a table, among the UI's artifacts."""
    page = made["diagnosis"]
    create_markdown_artifact(verdict_markdown(store, page), key="diagnosis", description="Do the latents matter?")
    rows = runs_table(store, made)
    if rows:
        create_table_artifact(rows, key="interventions", description="What changing the latents does")
