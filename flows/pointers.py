"""What a named pointer of the store means to an evaluation: a model, its method and problems; and moving it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.trained import METHOD_OF_STEP, TRAINED, artifact_of, settings_of, trained_step
from mirage_core.config import Settings, identity
from mirage_core.errors import ArtifactDamaged, ArtifactMissing, InputError
from mirage_core.pipeline.pipeline import methods, test_of
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.run_record import RunRecord
from mirage_core.pipeline.stage import stage_fingerprint
from mirage_core.store import Pointer, Store, checked_pointer
from mirage_core.types import Artifact

NIGHTLY = "nightly"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a night evaluates. ``problems`` is None where the pointer names none that is there: they are made again."""

    model: Artifact
    method: str
    settings: Settings
    problems: Artifact | None


def subject(store: Store, name: str) -> Subject:
    """What the pointer ``name`` says to evaluate; ArtifactMissing says how to set it, InputError what it lacks."""
    try:
        pointer = store.pointed(name)
    except ArtifactMissing as error:
        raise ArtifactMissing(
            f"no pointer {name!r} in {store.url}: set it with `mirage run --publish-as {name}`, or to a model that is "
            f"there with `mirage store point {name} ARTIFACT` (`mirage store ls model` lists them)"
        ) from error
    if pointer.artifact.kind != "model":
        raise InputError(
            f"the pointer {name} names {pointer.artifact.path}, a {pointer.artifact.kind}, expected a model: "
            f"mirage store point {name} MODEL"
        )
    store.manifest(pointer.artifact)  # a model that has gone is said before anything starts
    about = {**about_model(store, pointer.artifact), **pointer.about}
    return Subject(
        model=pointer.artifact,
        method=str(about["method"]),
        settings=settings_of(dict(about["settings"]), f"the pointer {name}"),
        problems=_problems(store, about.get("problems")),
    )


def publish(store: Store, name: str, record: RunRecord) -> Pointer:
    """Point ``name`` at the furthest model a run has trained, with all that its evaluation needs."""
    step, method = trained_step(record)
    model, problems = artifact_of(store, record, step), artifact_of(store, record, test_of(method))
    about = {
        "run": record.id,
        "recipe": record.recipe,
        "method": method,
        "settings": record.settings,
        "problems": problems.model_dump(mode="json", include={"kind", "path", "digest"}),
    }
    return store.point(name, model, about=about)


def check_publishable(settings: Settings, name: str | None) -> None:
    """InputError before anything starts, when ``name`` cannot be a pointer or the recipe trains nothing."""
    if name is None:
        return
    checked_pointer(name)
    if not methods(settings) & set(TRAINED.values()):
        raise InputError(
            f"--publish-as {name}: the recipe {settings.recipe} trains no model (evaluation.methods is "
            f"{', '.join(settings.evaluation.methods)}), expected one of {', '.join(TRAINED.values())} among them"
        )


def about_model(store: Store, model: Artifact) -> dict[str, Any]:
    """What a model's own manifest says of its evaluation: the method, the settings, and their problems."""
    told = store.manifest(model).about
    stage, kept = str(told.get("stage")), told.get("settings")
    if stage not in METHOD_OF_STEP or not isinstance(kept, dict):
        raise InputError(f"{model.path} does not say how it was made (stage {stage}): point at a model of a run")
    settings = settings_of(kept, model.path)
    about = {"method": METHOD_OF_STEP[stage], "recipe": settings.recipe, "settings": identity(settings)}
    made = get_stage("problems")
    problems = store.find(made.kind, stage_fingerprint(made, settings, {}))
    if problems is not None:
        about["problems"] = problems.model_dump(mode="json", include={"kind", "path", "digest"})
    return about


def _problems(store: Store, told: Mapping[str, Any] | None) -> Artifact | None:
    """The problems a pointer names, None where they are not there any more."""
    if not told:
        return None
    try:
        problems = Artifact.model_validate(dict(told))
        store.manifest(problems)
    except (ArtifactMissing, ArtifactDamaged):
        return None
    return problems
