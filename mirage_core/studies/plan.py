"""The plan of a study: every stage once, with the cells that share it, and whether it is cached; nothing runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mirage_core.methods import get_method
from mirage_core.pipeline.pipeline import Step, run_to_evaluations
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.stage import label, stage_fingerprint
from mirage_core.pipeline.stages.diagnosis import MEASURED, in_order
from mirage_core.store import Store, fingerprint
from mirage_core.studies.grid import CellRun
from mirage_core.types import Artifact

Handle = TypeVar("Handle")

INTERVENTIONS = f"{MEASURED}interventions"
"""The measure that a study's report reads."""


def run_cell_pipeline(run: CellRun, step: Step[Handle]) -> dict[str, Handle]:
    """Run the stages of a cell, and the measures of its latents if it has any; returns the handles by label."""
    handles = run_to_evaluations(run.settings, step)
    if not is_measured(run):
        return handles
    method = get_method(run.cell.method)
    inputs = {"model": handles[method.stage], "problems": handles[method.problems]}
    handles["collect"] = inputs["collected"] = step("collect", {}, **inputs)
    for name in in_order(run.measures):
        handles[MEASURED + name] = step("measure", {"measure": name}, **inputs)
    return handles


def is_measured(run: CellRun) -> bool:
    """Return whether a cell's latents are measured: its study has measures, and it answers with latents."""
    return bool(run.measures) and get_method(run.cell.method).latents == "on"


@dataclass(frozen=True, slots=True)
class PlannedArtifact:
    """A stage's artifact before it exists: ``key`` identifies it, ``artifact`` is set where it is in the store."""

    key: str
    artifact: Artifact | None


@dataclass(slots=True)
class SharedStage:
    """A stage that runs once: its label, the runs that share it, and whether it is cached."""

    label: str
    cached: bool
    runs: list[str] = field(default_factory=list)


def plan_study(runs: Sequence[CellRun], store: Store) -> list[SharedStage]:
    """Return every stage that the cells need, each once, in the order of the first cell; without the report."""
    planned: dict[str, SharedStage] = {}
    for run in runs:
        run_cell_pipeline(run, _probing(run, planned, store))
    return list(planned.values())


def _probing(run: CellRun, planned: dict[str, SharedStage], store: Store) -> Step[PlannedArtifact]:
    """Return a step that only records what one run needs."""

    def probe(name: str, params: Mapping[str, Any], /, **inputs: PlannedArtifact) -> PlannedArtifact:
        output = _plan_stage(name, params, run, inputs, store)
        shared = planned.setdefault(output.key, SharedStage(label(name, params), output.artifact is not None))
        shared.runs.append(run.name)
        return output

    return probe


def _plan_stage(
    name: str, params: Mapping[str, Any], run: CellRun, inputs: Mapping[str, PlannedArtifact], store: Store
) -> PlannedArtifact:
    """Return a stage's planned artifact; its key is known before its inputs exist, since it depends on their keys."""
    stage = get_stage(name)
    relevant = {"settings": stage.identity(run.settings), "params": dict(params)}
    key = fingerprint(name, stage.version, relevant, {each: planned.key for each, planned in inputs.items()})
    artifacts = {each: planned.artifact for each, planned in inputs.items() if planned.artifact is not None}
    if len(artifacts) < len(inputs):
        return PlannedArtifact(key, None)
    return PlannedArtifact(key, store.find(stage.kind, stage_fingerprint(stage, run.settings, artifacts, params)))
