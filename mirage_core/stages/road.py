"""The whole road, written once: which stage follows which, and what each is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mirage_core.config import Settings
from mirage_core.stages.registry import STAGES
from mirage_core.stages.stage import label, stage_fingerprint
from mirage_core.store import Store
from mirage_core.types import Artifact

Handle = TypeVar("Handle")


class Step(Protocol[Handle]):
    """Runs (or submits, or only probes) one stage and gives a handle to its artifact."""

    def __call__(self, name: str, params: Mapping[str, Any], /, **inputs: Handle) -> Handle: ...


def road(settings: Settings, step: Step[Handle]) -> dict[str, Handle]:
    """Walk from raw puzzles to the report; returns the handle of every stage by its label.

    Only what ``evaluation.methods`` needs is trained. ``step`` is called in an order that one process can follow.
    """
    wanted = methods(settings)
    made: dict[str, Handle] = {}

    made["problems"] = problems = step("problems", {})
    made["auxiliary-images"] = images = step("auxiliary-images", {}, problems=problems)
    made["base"] = base = step("base", {})
    models = {"zero-shot": base}

    if wanted & {"direct-sft", "capimagine", "stage-1", "stage-2", "grpo"}:
        made["examples"] = examples = step("examples", {}, problems=problems, auxiliary_images=images)
    if "direct-sft" in wanted:
        made["direct-sft"] = models["direct-sft"] = step("direct-sft", {}, model=base, examples=examples)
    if "capimagine" in wanted:
        made["captions"] = captions = step("captions", {}, examples=examples)
        made["capimagine"] = models["capimagine"] = step("capimagine", {}, model=base, examples=captions)
    if wanted & {"stage-1", "stage-2", "grpo"}:
        made["grounding"] = models["stage-1"] = step("grounding", {}, model=base, examples=examples)
    if wanted & {"stage-2", "grpo"}:
        made["relaxation"] = models["stage-2"] = step("relaxation", {}, model=models["stage-1"], examples=examples)
    if "grpo" in wanted:
        made["grpo"] = models["grpo"] = step("grpo", {}, model=models["stage-2"], problems=problems)

    for method in settings.evaluation.methods:
        if method in wanted:
            params = {"method": method}
            made[label("evaluation", params)] = step("evaluation", params, model=models[method], problems=problems)

    made["report"] = step("report", {}, **made)
    return made


def methods(settings: Settings) -> set[str]:
    """The methods this recipe compares; GRPO falls away where it is not enabled."""
    return {str(method) for method in settings.evaluation.methods if method != "grpo" or settings.grpo.enabled}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStage:
    """What a run would do with a stage.

    ``cached`` is True (its artifact is there), False (it will run), or None (it will run, and its fingerprint
    is not known yet, because a stage before it has to run first).
    """

    name: str
    cached: bool | None
    fingerprint: str | None
    artifact: Artifact | None = None


def plan(settings: Settings, store: Store) -> list[PlannedStage]:
    """What a run of the road would do, stage by stage, without doing any of it."""
    planned: list[PlannedStage] = []

    def probe(name: str, params: Mapping[str, Any], /, **inputs: Artifact | None) -> Artifact | None:
        planned.append(_probe(name, params, inputs, settings, store))
        return planned[-1].artifact

    road(settings, probe)
    return planned


def _probe(
    name: str, params: Mapping[str, Any], inputs: Mapping[str, Artifact | None], settings: Settings, store: Store
) -> PlannedStage:
    known = {key: given for key, given in inputs.items() if given is not None}
    if len(known) < len(inputs):
        return PlannedStage(name=label(name, params), cached=None, fingerprint=None)
    stage = STAGES[name]
    identified = stage_fingerprint(stage, settings, known, params)
    found = store.find(stage.kind, identified)
    return PlannedStage(name=label(name, params), cached=found is not None, fingerprint=identified, artifact=found)
