"""Named pointers of the store as evaluation targets (a model, its method and problems), and how to set them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.trained import artifact_of, parse_settings, trained_method
from mirage_core.config import Settings, identity
from mirage_core.errors import ArtifactDamaged, ArtifactMissing, InputError
from mirage_core.methods import furthest_first, method_of_stage
from mirage_core.pipeline.pipeline import methods_of
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.run_record import RunRecord
from mirage_core.pipeline.stage import stage_fingerprint
from mirage_core.store import Pointer, Store, checked_pointer
from mirage_core.types import Artifact

NIGHTLY = "nightly"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationTarget:
    """What a nightly evaluation judges. ``problems`` is None where they are missing: then they are made again."""

    model: Artifact
    method: str
    settings: Settings
    problems: Artifact | None


def pointer_target(store: Store, name: str) -> EvaluationTarget:
    """Return the target of the pointer ``name``; ArtifactMissing where it is unset, InputError where it is no model."""
    try:
        pointer = store.pointer(name)
    except ArtifactMissing as error:
        raise ArtifactMissing(
            f"no pointer {name!r} in {store.url}: set it with `mirage run --publish-as {name}`, or to an existing "
            f"model with `mirage store point {name} ARTIFACT` (`mirage store ls model` lists them)"
        ) from error
    if pointer.artifact.kind != "model":
        raise InputError(
            f"the pointer {name} names {pointer.artifact.path}, a {pointer.artifact.kind}, expected a model: "
            f"mirage store point {name} MODEL"
        )
    store.manifest(pointer.artifact)  # a model that was removed is an error before anything starts
    about = {**describe_model(store, pointer.artifact), **pointer.about}
    return EvaluationTarget(
        model=pointer.artifact,
        method=str(about["method"]),
        settings=parse_settings(dict(about["settings"]), f"the pointer {name}"),
        problems=_stored_problems(store, about.get("problems")),
    )


def publish(store: Store, name: str, record: RunRecord) -> Pointer:
    """Point ``name`` at the furthest trained model of a run, with everything its evaluation needs."""
    method = trained_method(record)
    if method is None:
        raise InputError(f"run {record.id} trained no model: there is nothing to point {name} at")
    model, problems = artifact_of(store, record, method.stage), artifact_of(store, record, method.problems)
    about = {
        "run": record.id,
        "recipe": record.recipe,
        "method": method.name,
        "settings": record.settings,
        "problems": problems.model_dump(mode="json", include={"kind", "path", "digest"}),
    }
    return store.point(name, model, about=about)


def check_publishable(settings: Settings, name: str | None) -> None:
    """Raise InputError when ``name`` cannot be a pointer or the recipe trains no model."""
    if name is None:
        return
    checked_pointer(name)
    trained = [method.name for method in furthest_first()]
    if not set(methods_of(settings)) & set(trained):
        raise InputError(
            f"--publish-as {name}: the recipe {settings.recipe} trains no model (evaluation.methods is "
            f"{', '.join(settings.evaluation.methods)}), expected one of {', '.join(trained)} among them"
        )


def describe_model(store: Store, model: Artifact) -> dict[str, Any]:
    """Return the method, settings and problems of a model, from its manifest."""
    manifest = store.manifest(model).about
    stage, saved = str(manifest.get("stage")), manifest.get("settings")
    method = method_of_stage(stage)
    if method is None or not isinstance(saved, dict):
        raise InputError(f"{model.path} does not record how it was made (stage {stage}): point at a model of a run")
    settings = parse_settings(saved, model.path)
    about = {"method": method.name, "recipe": settings.recipe, "settings": identity(settings)}
    problems_stage = get_stage("problems")
    problems = store.find(problems_stage.kind, stage_fingerprint(problems_stage, settings, {}))
    if problems is not None:
        about["problems"] = problems.model_dump(mode="json", include={"kind", "path", "digest"})
    return about


def _stored_problems(store: Store, reference: Mapping[str, Any] | None) -> Artifact | None:
    """Return the problems a pointer names; None where they were removed."""
    if not reference:
        return None
    try:
        problems = Artifact.model_validate(dict(reference))
        store.manifest(problems)
    except (ArtifactMissing, ArtifactDamaged):
        return None
    return problems
