"""What a study would do, without doing it: every stage once, with the cells that share it, and what is cached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mirage_core.pipeline.pipeline import Step, judged, model_of, test_of
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.stage import label, stage_fingerprint
from mirage_core.pipeline.stages.diagnosis import MEASURED, in_order
from mirage_core.pipeline.stages.evaluate import latents_of
from mirage_core.store import Store, fingerprint
from mirage_core.studies.grid import CellRun
from mirage_core.types import Artifact

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


@dataclass(frozen=True, slots=True)
class Known:
    """A stage's result as far as it is known: ``key`` tells it from others, ``artifact`` where it is in the store."""

    key: str
    artifact: Artifact | None


@dataclass(slots=True)
class PlannedShare:
    """A stage that would run once: its label, the runs that share it, and whether it is cached."""

    label: str
    cached: bool
    runs: list[str] = field(default_factory=list)


def plan_study(runs: Sequence[CellRun], store: Store) -> list[PlannedShare]:
    """Every stage that the cells need, each once, in the order of the first cell that needs it; reports apart."""
    planned: dict[str, PlannedShare] = {}
    for run in runs:
        cell_road(run, _probing(run, planned, store))
    return list(planned.values())


def _probing(run: CellRun, planned: dict[str, PlannedShare], store: Store) -> Step[Known]:
    """The step of the road that only notes what one run needs."""

    def probe(name: str, params: Mapping[str, Any], /, **inputs: Known) -> Known:
        known = _known(name, params, run, inputs, store)
        share = planned.setdefault(known.key, PlannedShare(label(name, params), known.artifact is not None))
        share.runs.append(run.name)
        return known

    return probe


def _known(name: str, params: Mapping[str, Any], run: CellRun, inputs: Mapping[str, Known], store: Store) -> Known:
    """A stage's key depends on the keys of its inputs, so that it is known before they are made."""
    stage = get_stage(name)
    told = {"settings": stage.identity(run.settings), "params": dict(params)}
    key = fingerprint(name, stage.version, told, {given: known.key for given, known in inputs.items()})
    artifacts = {given: known.artifact for given, known in inputs.items() if known.artifact is not None}
    if len(artifacts) < len(inputs):
        return Known(key, None)
    return Known(key, store.find(stage.kind, stage_fingerprint(stage, run.settings, artifacts, params)))
