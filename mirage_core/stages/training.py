"""What the training stages share: a job in processes of its own, checkpoints in the store, figures for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirage_core.config import Settings, identity
from mirage_core.errors import StoreUnavailable
from mirage_core.stages.stage import StageContext
from mirage_core.types import ProgressEvent

if TYPE_CHECKING:
    from mirage_core.training.job import Job, Program


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
    from mirage_core.training.memory import fitted

    job = Job(
        program=program,
        settings=context.settings,
        seed=context.settings.seed,
        inputs=dict(context.input_paths),
        output=context.output,
        scratch=context.scratch,
    )
    told = fitted(job, lambda fitting: run_resuming(context, fitting), context.progress)
    return {**final_figures(context.output), "engine": context.settings.runtime.engine, **told}


def run_resuming(context: StageContext, job: Job) -> None:
    """Run a training job from the stage's last good checkpoint on, and keep its checkpoints in the store."""
    from mirage_core.training.launch import run_job

    found = context.store.latest_checkpoint(context.fingerprint, context.progress)
    if found is not None:
        context.progress(ProgressEvent(stage=job.program, message=f"resumes from the checkpoint of step {found[0]}"))
    run_job(
        job.model_copy(update={"resume_from": found[1] if found is not None else None}),
        progress=context.progress,
        on_checkpoint=lambda step, folder: keep_checkpoint(context, job.program, step, folder),
    )


def keep_checkpoint(context: StageContext, program: Program, step: int, folder: Path) -> None:
    """Keep a checkpoint in the store; a store that is away for a while is no reason to stop training."""
    try:
        context.store.save_checkpoint(context.fingerprint, step, folder, context.progress)
    except StoreUnavailable as problem:
        said = f"the checkpoint of step {step} was not kept, training goes on without it: {problem}"
        context.progress(ProgressEvent(stage=program, message=said))


def final_figures(folder: Path) -> dict[str, Any]:
    """The steps of a trained model and its main figures, each the mean over the last tenth of its curve."""
    from mirage_core.evaluation.curves import last_step, read_curves, tail_mean

    curves = read_curves(folder)
    shown = ("loss", "visual", "text", "cosine", "accuracy", "reward")
    means = {name: round(tail_mean(curves[name]), 4) for name in shown if curves.get(name)}
    return {"steps": last_step(curves) or 0, **means}
