"""What a diagnosis is asked about: the model of a recipe, or a chosen one with the settings it was made with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from flows.pointers import about_model, subject
from flows.trained import settings_of
from mirage_core.config import Settings
from mirage_core.errors import InputError, SettingsError
from mirage_core.pipeline.diagnose import Diagnosed, chosen_measures, furthest
from mirage_core.recipes import load, merge
from mirage_core.recipes.keys import check_keys, explain
from mirage_core.store import Store
from mirage_core.types import Artifact

ADJUSTABLE = ("analysis", "evaluation", "runtime")
"""Settings of a finished model that may still be changed: the others say how it was made."""


def diagnosed(
    store: Store,
    *,
    recipe: str,
    overrides: Sequence[str] = (),
    method: str | None = None,
    model: str = "",
    problems: str = "",
    measures: Sequence[str] = (),
) -> tuple[Settings, Diagnosed]:
    """The settings and the choice: of a recipe, or of ``model`` (a path, the start of a digest, or a pointer's name).

    InputError for what cannot be diagnosed, ArtifactMissing for what is not there.
    """
    asked = _of_kind(store, problems, "problems") if problems else None
    if not model:
        settings = load(recipe, overrides)
        used = method or furthest(settings)
        chosen = Diagnosed(method=used, measures=chosen_measures(settings, used, measures), problems=asked)
        return settings, chosen
    artifact, about, known = _model(store, model)
    settings = adjusted(settings_of(about["settings"], artifact.path), overrides)
    used = method or str(about["method"])
    chosen = Diagnosed(
        method=used, measures=chosen_measures(settings, used, measures), model=artifact, problems=asked or known
    )
    return settings, chosen


def adjusted(settings: Settings, overrides: Sequence[str]) -> Settings:
    """A model's settings with overrides such as ``analysis.instances=400``; SettingsError for what made the model."""
    data: dict[str, Any] = settings.model_dump(mode="json")
    for text in overrides:
        dotted, equals, value = text.partition("=")
        if not equals or dotted.split(".")[0].strip() not in ADJUSTABLE:
            raise SettingsError(
                f"got the override {text!r} of a model that is there, expected {', '.join(ADJUSTABLE)}.KEY=VALUE: the "
                "other settings say how it was made"
            )
        nested: Any = yaml.safe_load(value)
        for part in reversed(dotted.strip().split(".")):
            nested = {part: nested}
        data = merge(data, nested)
    check_keys(data, Settings)
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise SettingsError("\n".join(explain(error, Settings) for error in error.errors())) from error


def _model(store: Store, reference: str) -> tuple[Artifact, dict[str, Any], Artifact | None]:
    """A model by pointer, path or digest: its handle, what is told of it, and its problems where they are there."""
    if reference in store.pointers():
        found = subject(store, reference)
        about = {"settings": found.settings.model_dump(mode="json"), "method": found.method}
        return found.model, about, found.problems
    artifact = _of_kind(store, reference, "model")
    about = about_model(store, artifact)
    known = about.get("problems")
    return artifact, about, None if known is None else Artifact.model_validate(known)


def _of_kind(store: Store, reference: str, kind: str) -> Artifact:
    artifact = store.get(reference)
    if artifact.kind != kind:
        raise InputError(
            f"{artifact.path} is a {artifact.kind}, expected {kind}: `mirage store ls {kind}` lists what there is"
        )
    return artifact
