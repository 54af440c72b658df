"""What mirage.json of a trained model says: how to use it, and what made it of what data.

Nothing but what decides the weights: the same job writes the same words under any commit, whatever else is in its
recipe. Settings of the whole recipe, commit and versions stand in the artifact's manifest; an export joins them.
"""

from __future__ import annotations

from typing import Any

from mirage_core.config import Section, Settings, identity
from mirage_core.distributed.job import TEXT_ONLY, Job
from mirage_core.model.loading import FROM_SCRATCH, LoadedModel
from mirage_core.store.manifest import describe_folder, digest_of
from mirage_core.store.records import count_by_split


def about(job: Job, model: LoadedModel) -> dict[str, Any]:
    """What mirage.json of the job's model says, the stages that made it oldest first; the same words every time."""
    before = {name: value for name, value in model.about.items() if name not in ("scores", "adapter")}
    return {
        **before,
        **about_use(job.settings, latents=has_latents(job)),
        "stage": job.program,
        "stages": [*before.get("stages", [before.get("stage", "base")]), job.program],
        "history": [*before.get("history", []), _chapter(job)],
    }


def about_warmup(job: Job) -> dict[str, Any]:
    """What mirage.json says of a model from scratch."""
    return {**about_base(job.settings), "stage": "base", "source": FROM_SCRATCH, "history": [_chapter(job)]}


def about_base(settings: Settings) -> dict[str, Any]:
    """What a base model is told of its recipe: how it is asked. What it is trained for comes with its training."""
    return {"prompt": identity(settings.prompt), "recipe": settings.recipe}


def about_use(settings: Settings, *, latents: bool) -> dict[str, Any]:
    """How a trained model of a recipe is to be used."""
    latent = {"latent": identity(settings.latent)} if latents else {}
    return {"prompt": identity(settings.prompt), **latent, "variant": settings.teacher.variant}


def has_latents(job: Job) -> bool:
    """Whether the job's model thinks in latents: not after text alone, nor where the job was told so."""
    return job.program not in TEXT_ONLY and job.options.get("latents", "on") == "on"


def _chapter(job: Job) -> dict[str, Any]:
    """One stage of a model's making; ``begun_with`` is the digest of its input model's artifact, where it is known."""
    model = job.settings.model.model_dump(mode="json", include={"dtype", "attention", "train_vision", "lora"})
    return {
        "stage": job.program,
        "seed": job.seed,
        "settings": identity(chosen(job)),
        "model": model,
        "begun_with": job.digests.get("model"),
        "data": {name: _data(job, name) for name in sorted(job.inputs) if name in ("examples", "problems")},
    }


def chosen(job: Job) -> Section:
    """The settings that the job's program reads."""
    settings = job.settings
    sections: dict[str, Section] = {
        "warmup": settings.model.warmup,
        "text": settings.direct_sft,
        "capimagine": settings.capimagine,
        "grounding": settings.grounding,
        "relaxation": settings.relaxation,
        "grpo": settings.grpo,
    }
    return sections[job.program]


def _data(job: Job, name: str) -> dict[str, Any]:
    """The digest of an input artifact, and how many rows of each benchmark and split it holds."""
    folder = job.inputs[name]
    return {"digest": job.digests.get(name) or digest_of(describe_folder(folder)), "counts": count_by_split(folder)}
