"""A study from its cells to its report, with its stages run in this process or by Prefect's tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mirage_core.config import Settings
from mirage_core.errors import StudyIncomplete
from mirage_core.pipeline.run_record import first_line
from mirage_core.pipeline.runner import StageRunner
from mirage_core.store import Store
from mirage_core.studies.grid import grid
from mirage_core.studies.record import StudyRecord, StudyTracker
from mirage_core.studies.report_inputs import report_artifacts, report_input
from mirage_core.studies.scheduler import CellResult, RunStage, StageDeduplicator, run_cells
from mirage_core.studies.spec import Study
from mirage_core.types import Artifact, Progress, ProgressEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """The record of a study, its report, and the results of its cells."""

    record: StudyRecord
    report: Artifact
    cells: tuple[CellResult, ...]

    @property
    def failed(self) -> tuple[CellResult, ...]:
        """The runs that failed."""
        return tuple(result for result in self.cells if result.error)

    def check(self) -> None:
        """StudyIncomplete where a cell failed; it names them all."""
        if self.failed:
            errors = "; ".join(f"{result.run.name} ({result.error})" for result in self.failed)
            raise StudyIncomplete(
                f"{len(self.failed)} of {len(self.cells)} cells failed: {errors}. The others are done and stand in "
                f"the report {self.report.path}; run again: only what is missing runs"
            )


def run_study_with(
    run_stage: RunStage, study: Study, sets: Sequence[str], store: Store, progress: Progress, *, parallel: int = 1
) -> StudyResult:
    """Run every cell, its stages with ``run_stage``, then the report of the completed ones; always write the record."""
    runs = grid(study, sets)
    tracker = StudyTracker(study.name, study.recipe, len(runs), store)

    def count_cells(event: ProgressEvent) -> None:
        count = f"({len(tracker.record.cells)} of {len(runs)} cells have ended)"
        progress(ProgressEvent(stage=event.stage, message=f"{event.message} {count}"))

    try:
        cells = run_cells(runs, StageDeduplicator(run_stage), count_cells, tracker.add_cell, parallel=parallel)
        params = {"study": report_input(study, sets, cells, store).model_dump(mode="json")}
        report, _ = run_stage("study", params, runs[0].settings, report_artifacts(cells))
    except BaseException as error:
        tracker.finish("Failed" if isinstance(error, Exception) else "Cancelled", first_line(error))
        raise
    failed = [result.run.name for result in cells if result.error]
    message = f"cells failed: {', '.join(failed)}" if failed else None
    record = tracker.finish("Failed" if failed else "Completed", message, report.path)
    return StudyResult(record=record, report=report, cells=tuple(cells))


def run_study_in_process(
    study: Study, sets: Sequence[str], store: Store, progress: Progress, *, parallel: int = 1
) -> StudyResult:
    """Run a study in this process, without an orchestrator."""
    stages = StageRunner(store, progress)

    def run_stage(
        name: str, params: Mapping[str, Any], settings: Settings, inputs: Mapping[str, Artifact]
    ) -> tuple[Artifact, bool]:
        result = stages.run(name, params, settings, inputs)
        return result.artifact, result.cached

    return run_study_with(run_stage, study, sets, store, progress, parallel=parallel)
