"""A study from its cells to its report, whoever runs the stages: this process, or Prefect's tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mirage_core.config import Settings
from mirage_core.errors import StudyIncomplete
from mirage_core.pipeline.recovery import retried
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.run_record import first_line
from mirage_core.pipeline.shards import in_processes, run_stage_in_shards
from mirage_core.pipeline.stage import label
from mirage_core.store import Store
from mirage_core.studies.grid import CellRun, grid
from mirage_core.studies.record import StudyBook, StudyRecord
from mirage_core.studies.report_inputs import read_by_the_report, told_of
from mirage_core.studies.scheduler import Do, Outcome, SharedStages, walk_study
from mirage_core.studies.spec import Study
from mirage_core.types import Artifact, Progress, ProgressEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """The record of a study, its report, and the cells that failed."""

    record: StudyRecord
    report: Artifact
    outcomes: tuple[Outcome, ...]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The runs that did not come to their end."""
        return tuple(outcome for outcome in self.outcomes if outcome.error)

    def check(self) -> None:
        """StudyIncomplete where a cell failed; it names them all."""
        if self.failed:
            named = "; ".join(f"{outcome.run.name} ({outcome.error})" for outcome in self.failed)
            raise StudyIncomplete(
                f"{len(self.failed)} of {len(self.outcomes)} cells failed: {named}. The others are done and stand in "
                f"the report {self.report.path}; run again: only what is missing runs"
            )


def run_study_by(
    do: Do, study: Study, sets: Sequence[str], store: Store, progress: Progress, *, parallel: int = 1
) -> StudyResult:
    """Walk every cell with ``do``, then make the report of those that were completed; its record is always written."""
    runs = grid(study, sets)
    book = StudyBook(study.name, study.recipe, len(runs), store)
    shared = SharedStages(do)
    try:
        outcomes = walk_study(runs, shared, _counted(progress, runs, book), book.cell, parallel=parallel)
        report = _report(do, study, sets, runs, outcomes, store)
    except BaseException as error:
        book.end("Failed" if isinstance(error, Exception) else "Cancelled", first_line(error))
        raise
    failed = [outcome.run.name for outcome in outcomes if outcome.error]
    error = f"cells failed: {', '.join(failed)}" if failed else None
    record = book.end("Failed" if failed else "Completed", error, report.path)
    return StudyResult(record=record, report=report, outcomes=tuple(outcomes))


def run_study_direct(
    study: Study, sets: Sequence[str], store: Store, progress: Progress, *, parallel: int = 1
) -> StudyResult:
    """Run a study in this process, without an orchestrator."""
    fan_out = in_processes(partial(Store.open, store.url, store.cache))

    def do(
        name: str, params: Mapping[str, Any], settings: Settings, inputs: Mapping[str, Artifact]
    ) -> tuple[Artifact, bool]:
        def say(said: str) -> None:
            progress(ProgressEvent(stage=label(name, params), message=said))

        result = retried(
            lambda: run_stage_in_shards(get_stage(name), settings, inputs, store, progress, params, fan_out=fan_out),
            say,
        )
        return result.artifact, result.cached

    return run_study_by(do, study, sets, store, progress, parallel=parallel)


def _report(
    do: Do, study: Study, sets: Sequence[str], runs: Sequence[CellRun], outcomes: Sequence[Outcome], store: Store
) -> Artifact:
    told = told_of(study, sets, outcomes, store)
    given = read_by_the_report(outcomes)
    artifact, _ = do("study", {"study": told.model_dump(mode="json")}, runs[0].settings, given)
    return artifact


def _counted(progress: Progress, runs: Sequence[CellRun], book: StudyBook) -> Progress:
    """Tells with the study's own words how many cells have ended."""

    def told(event: ProgressEvent) -> None:
        ended = len(book.record.cells)
        progress(ProgressEvent(stage=event.stage, message=f"{event.message} ({ended} of {len(runs)} cells have ended)"))

    return told
