"""``mirage study``: show what it would do, run it in this process, or start its deployment and watch it."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from flows.apps.study_names import DEPLOYED
from flows.commands.printing import console
from flows.commands.session import DirectProgress, connect_to_prefect, ended_by_sigterm, environment, keys_of
from mirage_core.errors import ArtifactMissing, InputError
from mirage_core.store import Store
from mirage_core.studies.grid import CellRun, grid
from mirage_core.studies.loading import load_study, names
from mirage_core.studies.plan import PlannedShare, plan_study
from mirage_core.studies.record import StudyRecord, newest_study
from mirage_core.studies.run import run_study_direct
from mirage_core.studies.spec import Study
from tasks.paths import open_store, store_url


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A study as the command line asks for it."""

    name: str
    seeds: tuple[int, ...]
    cells: tuple[str, ...]
    sets: tuple[str, ...]
    parallel: int

    def study(self) -> Study:
        """The study, with these seeds and cells where there are any."""
        return load_study(self.name, self.seeds, self.cells)


def seeds_of(told: str | None) -> tuple[int, ...]:
    """``1,2,3`` as numbers; InputError for anything else."""
    if told is None:
        return ()
    try:
        return tuple(int(part) for part in told.split(","))
    except ValueError as error:
        raise InputError(f"got the seeds {told!r}, expected whole numbers such as 1,2,3") from error


def cells_of(told: str | None) -> tuple[str, ...]:
    """``a,b`` as names; InputError where there is none."""
    names_told = tuple(part.strip() for part in (told or "").split(",") if part.strip())
    if told is not None and not names_told:
        raise InputError(f"got the cells {told!r}, expected names such as direct-sft,cot-sft; leave it out for all")
    return names_told


def show_plan(asked: Asked, store: str | None, *, open_page: bool) -> None:
    """Print the cells, and every stage once with the cells that share it; nothing is written."""
    study, opened = asked.study(), open_store(store)
    runs = grid(study, asked.sets)
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
    """A row a cell and seed."""
    table = Table("cell", "seed", "method", "differs in", box=None, pad_edge=False)
    for run in runs:
        changes = [one for one in run.sets if one.partition("=")[0] not in ("seed", "evaluation.methods")]
        table.add_row(run.cell.name, str(run.seed), run.cell.method, ", ".join(changes))
    return table


def stages_table(shares: Sequence[PlannedShare], runs: int) -> Table:
    """A row a stage."""
    table = Table("stage", "state", "shared by", box=None, pad_edge=False)
    for share in shares:
        who = "all cells" if len(share.runs) == runs > 1 else ", ".join(share.runs)
        table.add_row(share.label, "cached" if share.cached else "will run", who)
    return table


def run_direct(asked: Asked, store: str | None, *, open_page: bool) -> None:
    """Run the study in this process; StudyIncomplete where a cell failed, after the report is made."""
    study, opened = asked.study(), open_store(store)
    with keys_of(grid(study, asked.sets)[0].settings), ended_by_sigterm():
        result = run_study_direct(study, asked.sets, opened, DirectProgress(), parallel=asked.parallel)
    show(result.record, opened)
    if open_page:
        open_report(result.record, opened)
    result.check()


def run_deployment(asked: Asked, store: str | None, *, open_page: bool) -> None:
    """Start the study's deployment, watch it to its end, then show what it gave."""
    study = asked.study()
    grid(study, asked.sets)  # a wrong setting is said here, before anything starts
    connect_to_prefect()
    from flows.watch import start_and_watch

    known = asked.name in names()
    start_and_watch(
        f"mirage-study/{asked.name if asked.name in DEPLOYED else DEPLOYED[0]}",
        parameters={
            "study": asked.name if known else str(Path(asked.name).resolve()),
            "seeds": list(asked.seeds),
            "cells": list(asked.cells),
            "overrides": list(asked.sets),
            "parallel": asked.parallel,
        },
        environment=environment(store),
        say=lambda line, style=None: console.print(line, style=style, markup=False),
    )
    opened = open_store(store)
    record = newest_study(opened, study.name)
    show(record, opened)
    if open_page:
        open_report(record, opened)


def show(record: StudyRecord, store: Store) -> None:
    """The cells with their states, the table, and the page's path."""
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
    """The report's files on this machine; ArtifactMissing where the study made none."""
    if record.report is None:
        raise ArtifactMissing(f"the study {record.study} made no report (state: {record.state}); run it again")
    return store.fetch(store.get(record.report))


def open_report(record: StudyRecord, store: Store) -> None:
    """Show the page in a browser."""
    webbrowser.open((report_folder(record, store) / "study.html").as_uri())
