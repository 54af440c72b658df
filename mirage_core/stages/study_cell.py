"""What is walked for one cell of a study: its part of the road, then what the study measures of its latents."""

from __future__ import annotations

from typing import TypeVar

from mirage_core.stages.diagnosis import MEASURED, in_order
from mirage_core.stages.evaluation import latents_of
from mirage_core.stages.road import Step, judged, model_of, test_of
from mirage_core.studies.grid import CellRun

Handle = TypeVar("Handle")

INTERVENTIONS = f"{MEASURED}interventions"
"""What a study's report reads of a cell's measures."""


def cell_road(run: CellRun, step: Step[Handle]) -> dict[str, Handle]:
    """The handle of every stage that a cell needs, by its label; its latents are measured where it answers with any."""
    made = judged(run.settings, step)
    if not is_measured(run):
        return made
    method = run.cell.method
    model, problems = made[model_of(method)], made[test_of(method)]
    made["collect"] = step("collect", {}, model=model, problems=problems)
    for name in in_order(run.measures):
        given = {"model": model, "problems": problems, "collected": made["collect"]}
        made[MEASURED + name] = step("measure", {"measure": name}, **given)
    return made


def is_measured(run: CellRun) -> bool:
    """Whether anything is measured of a cell: its study asks for it, and it answers with latents."""
    return bool(run.measures) and latents_of(run.cell.method) == "on"
