"""The flow of the deployment mirage-study/diagnosis: do a model's latents matter?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.diagnosis_target import resolve_target
from flows.heartbeat import undo_false_crash
from flows.steps import lost_artifact_logger, prefect_step
from mirage_core.config import Method
from mirage_core.distributed.launch import cancel_jobs_on_interrupt
from mirage_core.pipeline.diagnose import diagnose_target, save_diagnosis_record
from mirage_core.pipeline.recovery import reruns_on_lost_artifact
from mirage_core.store import Store
from mirage_core.types import Artifact
from tasks.paths import open_store, store_url
from tasks.ui_artifacts import interventions_table, settings_markdown, verdict_markdown

Measure = Literal[
    "similarity", "probes", "interventions", "mediation", "only-latents", "text-chain", "film", "hand-made"
]


@flow(name="mirage-study", flow_run_name="diagnosis-{recipe}{model}", persist_result=False)
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
        recipe: The recipe whose model is diagnosed, and trained where it is missing: micro (a minute), tiny, ..., or
            the path of a YAML file that the worker can read. Not used where a model is chosen.
        overrides: Settings that differ from the recipe's, one per item, such as `analysis.instances=400`; for a chosen
            model only analysis.*, evaluation.* and runtime.*.
        method: The method whose model of the recipe is resolve_target. Empty: the furthest that answers with latents.
        model: A model instead of a recipe: its path in the store, the start of its digest, or a pointer such as
            `nightly`.
        problems: Problems instead of the model's own: a path or the start of a digest.
        measures: The measures to take. Empty: those of `analysis.measures`, and those of films for films.
    """
    store = open_store()
    settings, chosen = resolve_target(
        store, recipe=recipe, overrides=overrides, method=method, model=model, problems=problems, measures=measures
    )
    create_markdown_artifact(settings_markdown(settings), key="settings", description="The resolved settings")
    with undo_false_crash(), cancel_jobs_on_interrupt():
        step = prefect_step(settings, store_url())
        for attempt in reruns_on_lost_artifact(lost_artifact_logger()):
            with attempt:
                artifacts = diagnose_target(settings, chosen, step)
    save_diagnosis_record(store, artifacts["diagnosis"])
    show_verdict(store, artifacts)
    return artifacts


def show_verdict(store: Store, artifacts: Mapping[str, Artifact]) -> None:
    """Show the verdict, and the interventions as a table, among the UI's artifacts."""
    markdown = verdict_markdown(store, artifacts["diagnosis"])
    create_markdown_artifact(markdown, key="diagnosis", description="Do the latents matter?")
    rows = interventions_table(store, artifacts)
    if rows:
        create_table_artifact(rows, key="interventions", description="What changing the latents does")
