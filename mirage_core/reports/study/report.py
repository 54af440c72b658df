"""Write the report of a study: study.html (self-contained), study.json, table.md, and the plots as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from mirage_core.analysis.result_files import read_result
from mirage_core.analysis.results import InterventionsResult
from mirage_core.reports.study.blind import NO_PICTURE, PROBLEMS, blind_scores
from mirage_core.reports.study.figures_json import as_json, as_markdown
from mirage_core.reports.study.findings import headline
from mirage_core.reports.study.frontier import frontier_of
from mirage_core.reports.study.inputs import StudyReportInput
from mirage_core.reports.study.page import study_html
from mirage_core.reports.study.plots import figures_of
from mirage_core.reports.study.table import Table, table_of
from mirage_core.store.records import PREDICTIONS_FILE, load_predictions

PAGE_FILE, FIGURES_FILE, TABLE_FILE = "study.html", "study.json", "table.md"


def write_study(output: Path, study: StudyReportInput, folders: Mapping[str, Path]) -> dict[str, Any]:
    """Write the report into ``output`` and return a summary; ``folders``: the answers of each completed run.

    They also include the interventions on its latents, where these were measured. The bytes depend on ``study``, the
    answers, the measurements, and the versions of the libraries.
    """
    table = _table(study, folders)
    figures = {benchmark: figures_of(table, benchmark) for benchmark in table.benchmarks}
    frontiers = [figure for benchmark in table.benchmarks for figure in frontier_of(table, benchmark)]
    (output / "plots").mkdir(parents=True, exist_ok=True)
    for figure in chain(frontiers, *figures.values()):
        (output / figure.file).write_bytes(figure.light)
    (output / PAGE_FILE).write_text(study_html(table, figures, frontiers), encoding="utf-8")
    (output / FIGURES_FILE).write_text(
        json.dumps(as_json(table), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (output / TABLE_FILE).write_text(as_markdown(table), encoding="utf-8")
    failed = [f"{cell.name}/{run.seed}" for cell in study.cells for run in cell.runs if run.error]
    return {"study": study.name, "headline": headline(table), "cells": len(study.cells), "failed": failed}


def _table(study: StudyReportInput, folders: Mapping[str, Path]) -> Table:
    """Compute the table from the folders that the runs name."""
    latents = {str(run.interventions) for cell in study.cells for run in cell.runs if run.interventions}
    problems = {name: folder for name, folder in folders.items() if name.startswith(PROBLEMS)}
    answers = {name: folder for name, folder in folders.items() if name not in {*latents, *problems}}
    loaded = {name: load_predictions(folder / PREDICTIONS_FILE) for name, folder in answers.items()}
    scored = {name: pairs for name, pairs in loaded.items() if not name.startswith(NO_PICTURE)}
    unseen = {name.removeprefix(NO_PICTURE): pairs for name, pairs in loaded.items() if name.startswith(NO_PICTURE)}
    measured = {name: read_result(folders[name], InterventionsResult) for name in sorted(latents)}
    return replace(table_of(study, scored, measured, unseen), blind=blind_scores(problems, scored))
