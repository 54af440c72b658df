"""The target of a diagnosis: the model of a recipe, or a chosen model with its settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flows.pointers import describe_model, pointer_target
from flows.trained import parse_settings
from mirage_core.config import Settings, as_recipe
from mirage_core.errors import InputError, SettingsError
from mirage_core.pipeline.diagnose import DiagnosisTarget, default_method, select_measures
from mirage_core.recipes import load, validated
from mirage_core.store import Store
from mirage_core.types import Artifact

ADJUSTABLE = ("analysis", "evaluation", "runtime")
"""Settings of a finished model that may be overridden; the others describe how it was made."""


def resolve_target(
    store: Store,
    *,
    recipe: str,
    overrides: Sequence[str] = (),
    method: str | None = None,
    model: str = "",
    problems: str = "",
    measures: Sequence[str] = (),
) -> tuple[Settings, DiagnosisTarget]:
    """Return the settings and target of a recipe, or of ``model`` (a path, the start of a digest, or a pointer's name).

    InputError for a model that cannot be diagnosed, ArtifactMissing for a missing one.
    """
    chosen_problems = _get(store, problems, "problems") if problems else None
    if not model:
        settings = load(recipe, overrides)
        used = method or default_method(settings)
        chosen = DiagnosisTarget(
            method=used, measures=select_measures(settings, used, measures), problems=chosen_problems
        )
        return settings, chosen
    artifact, about, model_problems = _find_model(store, model)
    settings = override_settings(parse_settings(about["settings"], artifact.path), overrides)
    used = method or str(about["method"])
    chosen = DiagnosisTarget(
        method=used,
        measures=select_measures(settings, used, measures),
        model=artifact,
        problems=chosen_problems or model_problems,
    )
    return settings, chosen


def override_settings(settings: Settings, overrides: Sequence[str]) -> Settings:
    """Apply overrides such as ``analysis.instances=400``; SettingsError for settings that made the model."""
    for text in overrides:
        dotted, equals, _ = text.partition("=")
        if not equals or dotted.split(".")[0].strip() not in ADJUSTABLE:
            raise SettingsError(
                f"got the override {text!r} of a finished model, expected {', '.join(ADJUSTABLE)}.KEY=VALUE: the "
                "other settings describe how it was made"
            )
    return validated(as_recipe(settings), overrides, "the model")


def _find_model(store: Store, reference: str) -> tuple[Artifact, dict[str, Any], Artifact | None]:
    """Return a model by pointer, path or digest: its handle, its method and settings, and its problems if stored."""
    if reference in store.pointers():
        target = pointer_target(store, reference)
        about = {"settings": target.settings.model_dump(mode="json"), "method": target.method}
        return target.model, about, target.problems
    artifact = _get(store, reference, "model")
    about = describe_model(store, artifact)
    problems = about.get("problems")
    return artifact, about, None if problems is None else Artifact.model_validate(problems)


def _get(store: Store, reference: str, kind: str) -> Artifact:
    artifact = store.get(reference)
    if artifact.kind != kind:
        raise InputError(f"{artifact.path} is a {artifact.kind}, expected {kind}: `mirage store ls {kind}` lists them")
    return artifact
