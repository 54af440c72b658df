"""The whole road, written once: which stage follows which, and what each is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mirage_core.config import Settings
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.stage import label, stage_fingerprint
from mirage_core.pipeline.stages.evaluate import latents_of
from mirage_core.store import Store
from mirage_core.types import Artifact

Handle = TypeVar("Handle")


class Step(Protocol[Handle]):
    """Runs (or submits, or only probes) one stage and gives a handle to its artifact."""

    def __call__(self, name: str, params: Mapping[str, Any], /, **inputs: Handle) -> Handle: ...


NEEDS: dict[str, dict[str, str]] = {
    "problems": {},
    "auxiliary-images": {"problems": "problems"},
    "base": {},
    "examples": {"problems": "problems", "auxiliary_images": "auxiliary-images"},
    "auxiliary-problems": {"problems": "problems", "auxiliary_images": "auxiliary-images"},
    "auxiliary-examples": {"examples": "examples"},
    "captions": {"examples": "examples"},
    "direct-sft": {"model": "base", "examples": "examples"},
    "auxiliary-input": {"model": "base", "examples": "auxiliary-examples"},
    "capimagine": {"model": "base", "examples": "captions"},
    "grounding": {"model": "base", "examples": "examples"},
    "without-stage-1": {"model": "base", "examples": "examples"},
    "relaxation": {"model": "grounding", "examples": "examples"},
    "direct-sft-grpo": {"model": "direct-sft", "problems": "problems"},
    "capimagine-grpo": {"model": "capimagine", "problems": "problems"},
    "without-stage-1-grpo": {"model": "without-stage-1", "problems": "problems"},
    "grpo": {"model": "relaxation", "problems": "problems"},
}
"""What each stage up to the models is given, in an order that one process can follow."""
MODELS = {"zero-shot": "base", "stage-1": "grounding", "stage-2": "relaxation"}
"""The stage whose model a method judges, where it is not called like the method."""
TESTS = {"auxiliary-input": "auxiliary-problems"}
"""The stage whose problems a method is judged on, where it is not ``problems``."""
ALWAYS = ("problems", "auxiliary-images", "base")


def road(settings: Settings, step: Step[Handle]) -> dict[str, Handle]:
    """Walk from raw puzzles to the report; returns the handle of every stage by its label.

    Only what ``evaluation.methods`` needs is trained. ``step`` is called in an order that one process can follow.
    """
    made = judged(settings, step)
    if settings.report.looks:
        made.update(looked(settings, step, made))
    made["report"] = step("report", {}, **made)
    return made


def judged(settings: Settings, step: Step[Handle]) -> dict[str, Handle]:
    """The road up to the evaluations, without its report."""
    wanted = methods(settings)
    needed = _closure({*ALWAYS, *(model_of(method) for method in wanted), *(test_of(method) for method in wanted)})
    made: dict[str, Handle] = {}
    for name, inputs in NEEDS.items():
        if name in needed:
            made[name] = step(name, {}, **{given: made[source] for given, source in inputs.items()})
    for method in settings.evaluation.methods:
        if method in wanted:
            params = {"method": method}
            model, problems = made[model_of(method)], made[test_of(method)]
            made[label("evaluation", params)] = step("evaluation", params, model=model, problems=problems)
    return made


def looked(settings: Settings, step: Step[Handle], made: Mapping[str, Handle]) -> dict[str, Handle]:
    """The looks at the latents of every method that has some, at the answers that the report shows."""
    found: dict[str, Handle] = {}
    for method in settings.evaluation.methods:
        params = {"method": method}
        judging = label("evaluation", params)
        if judging in made and latents_of(method) == "on":
            model, problems, evaluation = made[model_of(method)], made[test_of(method)], made[judging]
            found[label("looks", params)] = step("looks", params, model=model, problems=problems, evaluation=evaluation)
    return found


def model_of(method: str) -> str:
    """The stage whose model a method judges."""
    return MODELS.get(method, method)


def test_of(method: str) -> str:
    """The stage whose problems a method is judged on."""
    return TESTS.get(method, "problems")


def methods(settings: Settings) -> set[str]:
    """The methods this recipe compares; what ends with GRPO falls away where it is not enabled."""
    chosen = (str(method) for method in settings.evaluation.methods)
    return {method for method in chosen if settings.grpo.enabled or not method.endswith("grpo")}


def trained_for(method: str) -> list[str]:
    """The stages that train a method's model after the base, in their order."""
    found: list[str] = []
    name = model_of(method)
    while name != "base":
        found.insert(0, name)
        name = NEEDS[name]["model"]
    return found


def _closure(names: set[str]) -> set[str]:
    """These stages and all they need."""
    found = set(names)
    for name in reversed(list(NEEDS)):
        if name in found:
            found.update(NEEDS[name].values())
    return found


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
    stage = get_stage(name)
    identified = stage_fingerprint(stage, settings, known, params)
    found = store.find(stage.kind, identified)
    return PlannedStage(name=label(name, params), cached=found is not None, fingerprint=identified, artifact=found)
