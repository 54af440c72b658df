"""``mirage study``: show what it would do, run it in this process, or start its deployment and watch it."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from deployments.local_stack import STUDY_DEPLOYMENTS
from flows.commands.open_display import open_display
from flows.commands.printing import console
from flows.commands.session import api_url, exit_on_sigterm, flow_environment, provide_teacher_key
from mirage_core.errors import ArtifactMissing, InputError
from mirage_core.store import Store
from mirage_core.studies.grid import CellRun, grid
from mirage_core.studies.loading import load_study, names
from mirage_core.studies.plan import SharedStage, plan_study
from mirage_core.studies.record import StudyRecord, newest_study
from mirage_core.studies.run import run_study_in_process
from mirage_core.studies.spec import Study
from tasks.paths import open_store, store_url


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRequest:
    """A study with the seeds, cells and settings of the command line."""

    name: str
    seeds: tuple[int, ...]
    cells: tuple[str, ...]
    sets: tuple[str, ...]
    parallel: int

    def study(self) -> Study:
        """Load the study, with these seeds and cells where there are any."""
        return load_study(self.name, self.seeds, self.cells)


def parse_seeds(text: str | None) -> tuple[int, ...]:
    """Return ``1,2,3`` as numbers; InputError for anything else."""
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"got the seeds {text!r}, expected whole numbers such as 1,2,3") from error


def parse_cells(text: str | None) -> tuple[str, ...]:
    """Return ``a,b`` as names; InputError where there is none."""
    cells = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    if text is not None and not cells:
        raise InputError(f"got the cells {text!r}, expected names such as direct-sft,cot-sft; leave it out for all")
    return cells


def show_plan(request: StudyRequest, store: str | None, *, open_page: bool) -> None:
    """Print the cells, and every stage once with the cells that share it; write nothing."""
    study, opened = request.study(), open_store(store)
    runs = grid(study, request.sets)
    console.print(f"study {study.name}: {study.description}", markup=False)
    console.print(f"store: {store_url(store)}", markup=False)
    console.print(cells_table(runs))
    shares = plan_study(runs, opened)
    console.print(stages_table(shares, len(runs)))
    cached = sum(share.cached for share in shares)
    console.print(
        f"{len(shares)} stages for {len(runs)} cells, {sum(len(share.runs) for share in shares)} without sharing; "
        f"{cached} are cached",
        markup=False,
    )
    if open_page:
        open_report(newest_study(opened, study.name), opened)


def cells_table(runs: Sequence[CellRun]) -> Table:
    """Return one row per cell and seed."""
    table = Table("cell", "seed", "method", "differs in", box=None, pad_edge=False)
    for run in runs:
        changes = [text for text in run.sets if text.partition("=")[0] not in ("seed", "evaluation.methods")]
        table.add_row(run.cell.name, str(run.seed), run.cell.method, ", ".join(changes))
    return table


def stages_table(shares: Sequence[SharedStage], runs: int) -> Table:
    """Return one row per stage."""
    table = Table("stage", "state", "shared by", box=None, pad_edge=False)
    for share in shares:
        cells = "all cells" if len(share.runs) == runs > 1 else ", ".join(share.runs)
        table.add_row(share.label, "cached" if share.cached else "will run", cells)
    return table


def run_direct(request: StudyRequest, store: str | None, *, open_page: bool) -> None:
    """Run the study in this process; StudyIncomplete where a cell failed, after the report is made."""
    study, opened = request.study(), open_store(store)
    display = open_display()
    with provide_teacher_key(grid(study, request.sets)[0].settings), exit_on_sigterm(), display:
        result = run_study_in_process(study, request.sets, opened, display.progress, parallel=request.parallel)
    show(result.record, opened)
    if open_page:
        open_report(result.record, opened)
    result.check()


def run_deployment(request: StudyRequest, store: str | None, *, open_page: bool) -> None:
    """Start the study's deployment, watch it to its end, then show its result."""
    study = request.study()
    grid(study, request.sets)  # a wrong setting is an error before anything starts
    from flows.watch import start_and_watch

    known = request.name in names()
    start_and_watch(
        api_url(),
        f"mirage-study/{request.name if request.name in STUDY_DEPLOYMENTS else STUDY_DEPLOYMENTS[0]}",
        parameters={
            "study": request.name if known else str(Path(request.name).resolve()),
            "seeds": list(request.seeds),
            "cells": list(request.cells),
            "overrides": list(request.sets),
            "parallel": request.parallel,
        },
        environment=flow_environment(store),
        display=open_display(),
    )
    opened = open_store(store)
    record = newest_study(opened, study.name)
    show(record, opened)
    if open_page:
        open_report(record, opened)


def show(record: StudyRecord, store: Store) -> None:
    """Print the cells with their states, the table, and the page's path."""
    console.print(f"study {record.study}  {record.state} in {record.wall_seconds:.0f} s", markup=False)
    table = Table("cell", "seed", "state", "seconds", "stages run", "error", box=None, pad_edge=False)
    for cell in record.cells:
        ran = ", ".join(stage.name for stage in cell.stages if not stage.cached)
        table.add_row(cell.cell, str(cell.seed), cell.state, f"{cell.seconds:.0f}", ran, cell.error or "")
    console.print(table)
    folder = report_folder(record, store)
    console.print((folder / "table.md").read_text(encoding="utf-8"), markup=False)
    console.print(f"report: {folder / 'study.html'}", markup=False)


def report_folder(record: StudyRecord, store: Store) -> Path:
    """Return the report's files on this machine; ArtifactMissing where the study made none."""
    if record.report is None:
        raise ArtifactMissing(f"the study {record.study} made no report (state: {record.state}); run it again")
    return store.fetch(store.get(record.report))


def open_report(record: StudyRecord, store: Store) -> None:
    """Open the report's page in a browser."""
    webbrowser.open((report_folder(record, store) / "study.html").as_uri())
