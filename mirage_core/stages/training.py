"""What the training stages share: a job in processes of its own, checkpoints in the store, figures for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirage_core.config import Settings, identity
from mirage_core.stages.stage import StageContext
from mirage_core.types import ProgressEvent

if TYPE_CHECKING:
    from mirage_core.training.job import Program


def use_identity(settings: Settings) -> dict[str, Any]:
    """What every training stage depends on beside its own section: seed, prompt, latents, the numbers' type."""
    return {
        "seed": settings.seed,
        "model": settings.model.model_dump(mode="json", include={"dtype", "attention", "train_vision"}),
        **use(settings),
    }


def use(settings: Settings) -> dict[str, Any]:
    """How a model of this recipe is to be used: the prompt, the latents, the variant (as in its mirage.json)."""
    return {
        "prompt": identity(settings.prompt),
        "latent": identity(settings.latent),
        "variant": settings.teacher.variant,
    }


def train(context: StageContext, program: Program) -> dict[str, Any]:
    """Run a training program on the context's inputs, going on from its last good checkpoint if there is one.

    Checkpoints are kept in the store under the stage's fingerprint until the result is published.
    """
    from mirage_core.training.job import Job
    from mirage_core.training.launch import run_job

    found = context.store.latest_checkpoint(context.fingerprint)
    if found is not None:
        context.progress(ProgressEvent(stage=program, message=f"resumes from the checkpoint of step {found[0]}"))
    job = Job(
        program=program,
        settings=context.settings,
        seed=context.settings.seed,
        inputs=dict(context.input_paths),
        output=context.output,
        scratch=context.scratch,
        resume_from=found[1] if found is not None else None,
    )
    run_job(
        job,
        progress=context.progress,
        on_checkpoint=lambda step, folder: context.store.save_checkpoint(context.fingerprint, step, folder),
    )
    return {**final_figures(context.output), "engine": context.settings.runtime.engine}


def final_figures(folder: Path) -> dict[str, Any]:
    """The steps of a trained model and its main figures, each the mean over the last tenth of its curve."""
    from mirage_core.evaluation.curves import last_step, read_curves, tail_mean

    curves = read_curves(folder)
    shown = ("loss", "visual", "text", "cosine", "accuracy", "reward")
    means = {name: round(tail_mean(curves[name]), 4) for name in shown if curves.get(name)}
    return {"steps": last_step(curves) or 0, **means}
