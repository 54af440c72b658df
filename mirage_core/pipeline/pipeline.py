"""The pipeline, written once: which stage follows which, and which artifacts each takes; and what a run would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mirage_core.config import Settings
from mirage_core.methods import enabled_methods, get_method, stage_inputs
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.stage import label, stage_fingerprint
from mirage_core.store import Store
from mirage_core.types import Artifact

Handle = TypeVar("Handle")


class Step(Protocol[Handle]):
    """Runs (or submits, or only probes) one stage; returns a handle to its artifact."""

    def __call__(self, name: str, params: Mapping[str, Any], /, **inputs: Handle) -> Handle: ...


ALWAYS = ("problems", "auxiliary-images", "base")
"""The stages that every run has."""


def run_pipeline(settings: Settings, step: Step[Handle]) -> dict[str, Handle]:
    """Run from the problems to the report; returns the handle of every stage by its label.

    Only what ``evaluation.methods`` needs is trained. ``step`` is called in an order that one process can follow.
    """
    handles = run_to_evaluations(settings, step)
    if settings.report.latent_lens:
        handles.update(run_lenses(settings, step, handles))
    handles["report"] = step("report", {}, **handles)
    return handles


def run_to_evaluations(settings: Settings, step: Step[Handle]) -> dict[str, Handle]:
    """Run the pipeline up to the evaluations, without its report."""
    methods = [get_method(name) for name in methods_of(settings)]
    needed = _closure({*ALWAYS, *(method.stage for method in methods), *(method.problems for method in methods)})
    handles: dict[str, Handle] = {}
    for name, sources in stage_inputs().items():
        if name in needed:
            handles[name] = step(name, {}, **{key: handles[source] for key, source in sources.items()})
    for method in methods:
        params = {"method": method.name}
        model, problems = handles[method.stage], handles[method.problems]
        handles[label("evaluation", params)] = step("evaluation", params, model=model, problems=problems)
        if settings.evaluation.blind:
            handles[label("blind-evaluation", params)] = step(
                "blind-evaluation", params, model=model, problems=problems
            )
    return handles


def run_lenses(settings: Settings, step: Step[Handle], handles: Mapping[str, Handle]) -> dict[str, Handle]:
    """Run the latent lens of every method with latents, on the answers that the report shows."""
    lenses: dict[str, Handle] = {}
    for method in map(get_method, methods_of(settings)):
        if method.latents == "on":
            params = {"method": method.name}
            inputs = {
                "model": handles[method.stage],
                "problems": handles[method.problems],
                "evaluation": handles[label("evaluation", params)],
            }
            lenses[label("looks", params)] = step("looks", params, **inputs)
    return lenses


def methods_of(settings: Settings) -> tuple[str, ...]:
    """Return the methods that a recipe compares, in its order; what ends with GRPO only where that is enabled."""
    return enabled_methods(settings.evaluation.methods, grpo=settings.grpo.enabled)


def _closure(names: set[str]) -> set[str]:
    """Return these stages and all they need."""
    closure, sources = set(names), stage_inputs()
    for name in reversed(sources):
        if name in closure:
            closure.update(sources[name].values())
    return closure


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """What a run would do with a stage.

    ``cached`` is True (its artifact is in the store), False (it will run), or None (it will run, and its fingerprint
    is not known yet, because a stage before it has to run first).
    """

    name: str
    cached: bool | None
    fingerprint: str | None
    artifact: Artifact | None = None


def plan(settings: Settings, store: Store) -> list[PlannedStage]:
    """Return what a run of the pipeline would do, stage by stage, without doing any of it."""
    planned: list[PlannedStage] = []

    def probe(name: str, params: Mapping[str, Any], /, **inputs: Artifact | None) -> Artifact | None:
        planned.append(_probe(name, params, inputs, settings, store))
        return planned[-1].artifact

    run_pipeline(settings, probe)
    return planned


def _probe(
    name: str, params: Mapping[str, Any], inputs: Mapping[str, Artifact | None], settings: Settings, store: Store
) -> PlannedStage:
    known = {key: artifact for key, artifact in inputs.items() if artifact is not None}
    if len(known) < len(inputs):
        return PlannedStage(name=label(name, params), cached=None, fingerprint=None)
    stage = get_stage(name)
    fingerprint = stage_fingerprint(stage, settings, known, params)
    artifact = store.find(stage.kind, fingerprint)
    return PlannedStage(
        name=label(name, params), cached=artifact is not None, fingerprint=fingerprint, artifact=artifact
    )
