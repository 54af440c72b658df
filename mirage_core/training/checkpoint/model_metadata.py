"""The content of a trained model's mirage.json: how to use it, and which stages made it from which data.

It holds only what decides the weights: the same job writes the same bytes under any commit, whatever else is in its
recipe. Settings of the whole recipe, commit and versions are in the artifact's manifest; an export joins them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mirage_core.config import InferenceSettings, Settings, as_recipe, identity
from mirage_core.distributed.arithmetic import arithmetic_of
from mirage_core.distributed.job import Job
from mirage_core.errors import SettingsError
from mirage_core.methods import programs
from mirage_core.model.loading import FROM_SCRATCH, LoadedModel
from mirage_core.store.manifest import describe_folder, digest_of
from mirage_core.store.records import count_by_split


def model_metadata(job: Job, model: LoadedModel) -> dict[str, Any]:
    """Return the mirage.json of the job's model: that of its input model, with the job as the last stage."""
    before = {name: value for name, value in model.about.items() if name not in ("scores", "adapter")}
    return {
        **before,
        **InferenceSettings.of(job.settings).as_metadata(latents=has_latents(job)),
        "stage": job.program,
        "stages": [*before.get("stages", [before.get("stage", "base")]), job.program],
        "history": [*before.get("history", []), _chapter(job, model.backbone.device)],
    }


def check_own_settings(job: Job, about: Mapping[str, Any]) -> None:
    """Refuse to go on with a model under other settings than its own: those in ``about``, its mirage.json.

    Answers under other settings would not be the model's, and the result would claim to have been trained with them.
    What only targets are made of (latent.compression) does not count. SettingsError names every setting with both
    values.
    """
    own, recipe = InferenceSettings.from_metadata(about, job.settings), InferenceSettings.of(job.settings)
    found, wanted = _flat(own, latents=has_latents(job)), _flat(recipe, latents=has_latents(job))
    faults = [
        f"{name} is {found[name]!r} in the model, {wanted[name]!r} in the recipe"
        for name in found
        if found[name] != wanted[name]
    ]
    if faults:
        raise SettingsError(
            f"{job.program} would train a model under other settings than its own: {'; '.join(faults)}. Set the "
            "recipe's to the model's, or train the model with the recipe's settings first"
        )


def _flat(inference: InferenceSettings, *, latents: bool) -> dict[str, Any]:
    """Return the settings by their names in a recipe."""
    sections = {"prompt": as_recipe(inference.prompt)}
    if latents:
        sections["latent"] = as_recipe(inference.latent, exclude={"compression"})
    named = {f"{section}.{name}": value for section, values in sections.items() for name, value in values.items()}
    return {**named, "teacher.variant": inference.variant}


def warmup_metadata(job: Job, device: torch.device) -> dict[str, Any]:
    """Return the mirage.json of a model from scratch, trained on ``device``."""
    return {**base_metadata(job.settings), "stage": "base", "source": FROM_SCRATCH, "history": [_chapter(job, device)]}


def base_metadata(settings: Settings) -> dict[str, Any]:
    """Return what a base model needs of its recipe: the prompt. The rest comes with its training."""
    return {"prompt": identity(settings.prompt), "recipe": settings.recipe}


def own_settings(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a model was trained with, from its mirage.json; nothing of a model without training.

    Of a model that other authors released: how its latents are decoded by their rule.
    """
    taught = about.get("history", about.get("stages"))  # what others released has no history
    return {name: about[name] for name in ("prompt", "latent", "variant") if taught and name in about}


def has_latents(job: Job) -> bool:
    """Whether the job's model thinks in latents: not after text alone, nor if the job's options turn them off."""
    return programs()[job.program].has_latents and job.options.get("latents", "on") == "on"


def _chapter(job: Job, device: torch.device) -> dict[str, Any]:
    """Return one stage of a model's history; ``begun_with`` is the digest of its input model's artifact, if known."""
    section = job.settings.model.warmup if job.program == "warmup" else job.settings.training(job.program)
    model = job.settings.model.model_dump(mode="json", include={"dtype", "attention", "train_vision", "lora"})
    return {
        "stage": job.program,
        "seed": job.seed,
        "settings": identity(section),
        "model": model,
        "arithmetic": arithmetic_of(device, portable=job.settings.runtime.portable_math),
        "begun_with": job.digests.get("model"),
        "data": {name: _data(job, name) for name in sorted(job.inputs) if name in ("examples", "problems")},
    }


def _data(job: Job, name: str) -> dict[str, Any]:
    """Return the digest of an input artifact, and how many rows of each benchmark and split it holds."""
    folder = job.inputs[name]
    return {"digest": job.digests.get(name) or digest_of(describe_folder(folder)), "counts": count_by_split(folder)}
