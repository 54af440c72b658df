"""The flow ``mirage-study`` of a grid of runs. Deployments: mirage-study/ablation, causal, sweep-k, sweep-gamma."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from flows.heartbeat import said_to_live
from flows.steps import run_task
from mirage_core.config import Settings
from mirage_core.distributed.launch import ending_jobs
from mirage_core.store import Store
from mirage_core.studies.loading import dump_study, load_study
from mirage_core.studies.run import StudyResult, run_study_by
from mirage_core.types import Artifact, ProgressEvent
from tasks.paths import open_store, store_url


@flow(name="mirage-study", flow_run_name="{study}", persist_result=False, result_serializer="json")
def grid_study(
    study: str = "ablation",
    seeds: tuple[int, ...] = (),
    cells: tuple[str, ...] = (),
    overrides: tuple[str, ...] = (),
    parallel: int = 1,
) -> Artifact:
    """Run every cell of a study, each stage that cells share once, and make one report of all of them.

    A cell that fails does not stop the others: the report tells it and the run ends Failed, naming it. Run again, only
    what is missing runs.

    Args:
        study: The study: ablation, causal, causal-screening, causal-small, sweep-k, sweep-gamma, paper,
            ablation-micro (for tests), or the path of a YAML file that the worker can read.
        seeds: Repeats of every cell, one seed an item. Empty: the study's own seeds.
        cells: Only these cells, one an item, and the baseline. Empty: all.
        overrides: Settings of all cells that differ from the study's, one an item, such as `runtime.processes=4`.
        parallel: Cells at a time. Where the machine has one GPU, or two cores, one is best.
    """
    chosen, store = load_study(study, seeds, cells), store_url()
    log = get_run_logger()
    shown = f"# Study {chosen.name}\n\n```yaml\n{dump_study(chosen)}```\n"
    create_markdown_artifact(shown, key="study", description="The study as it is run")

    def do(
        name: str, params: Mapping[str, Any], settings: Settings, inputs: Mapping[str, Artifact]
    ) -> tuple[Artifact, bool]:
        return run_task(name, params, settings, store, inputs)

    def told(event: ProgressEvent) -> None:
        log.info("%s", event.message)

    opened = open_store(store)
    with said_to_live(), ending_jobs():
        result = run_study_by(do, chosen, overrides, opened, told, parallel=parallel)
    show(result, opened)
    result.check()
    return result.report


def show(result: StudyResult, store: Store) -> None:
    """Leave the table, how each cell went, and the report's place among the UI's artifacts."""
    folder = store.fetch(result.report)
    table = (folder / "table.md").read_text(encoding="utf-8")
    cells = "| cell | seed | state | seconds | |\n|---|---:|---|---:|---|\n" + "".join(
        f"| {cell.cell} | {cell.seed} | {cell.state} | {cell.seconds:.0f} | {cell.error or ''} |\n"
        for cell in result.record.cells
    )
    place = f"Report: `{store.url}/{result.report.path}` (study.html in its files)"
    create_markdown_artifact(
        f"# {result.report.summary['headline']}\n\n{table}\n{cells}\n{place}\n",
        key="study-table",
        description="Every cell beside the published figures",
    )
