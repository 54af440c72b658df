"""The flow ``mirage-study`` of a grid of runs. Deployments: mirage-study/ablation, causal, sweep-k, sweep-gamma."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from flows.heartbeat import undo_false_crash
from flows.steps import run_task
from mirage_core.config import Settings
from mirage_core.distributed.launch import cancel_jobs_on_interrupt
from mirage_core.studies.loading import dump_study, load_study
from mirage_core.studies.run import run_study_with
from mirage_core.types import Artifact, ProgressEvent
from tasks.paths import open_store, store_url
from tasks.ui_artifacts import study_markdown


@flow(name="mirage-study", flow_run_name="{study}", persist_result=False)
def grid_study(
    study: str = "ablation",
    seeds: tuple[int, ...] = (),
    cells: tuple[str, ...] = (),
    overrides: tuple[str, ...] = (),
    parallel: int = 1,
) -> Artifact:
    """Run every cell of a study, each stage that cells share once, and make one report of all of them.

    A cell that fails does not stop the others: the report shows it and the run ends Failed with its name. A second
    run runs only what is missing.

    Args:
        study: The study: ablation, causal, causal-screening, causal-small, imagination, imagination-dependence,
            imagination-reasoning, imagination-screening, methods, sweep-k, sweep-gamma, paper, ablation-micro (for
            tests), or the path of a YAML file that the worker can read.
        seeds: Repeats of every cell, one seed per item. Empty: the study's own seeds.
        cells: Only these cells, one per item, and the baseline. Empty: all.
        overrides: Settings of all cells that differ from the study's, one per item, such as `runtime.processes=4`.
        parallel: Cells at a time. Where the machine has one GPU, or two cores, one is best.
    """
    chosen, store = load_study(study, seeds, cells), store_url()
    log = get_run_logger()
    definition = f"# Study {chosen.name}\n\n```yaml\n{dump_study(chosen)}```\n"
    create_markdown_artifact(definition, key="study", description="The study as it is run")

    def run_stage(
        name: str, params: Mapping[str, Any], settings: Settings, inputs: Mapping[str, Artifact]
    ) -> tuple[Artifact, bool]:
        return run_task(name, params, settings, store, inputs)

    def progress(event: ProgressEvent) -> None:
        log.info("%s", event.message)

    opened = open_store(store)
    with undo_false_crash(), cancel_jobs_on_interrupt():
        result = run_study_with(run_stage, chosen, overrides, opened, progress, parallel=parallel)
    create_markdown_artifact(
        study_markdown(opened, result), key="study-table", description="Every cell beside the published figures"
    )
    result.check()
    return result.report
