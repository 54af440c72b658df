"""What the training stages share: a job in processes of its own, checkpoints in the store, figures for people."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from mirage_core.config import Settings, identity
from mirage_core.errors import StoreUnavailable
from mirage_core.stages.stage import StageContext
from mirage_core.types import Progress, ProgressEvent

if TYPE_CHECKING:
    from mirage_core.training.job import Job, Program


def use_identity(settings: Settings, *, latents: bool = True) -> dict[str, Any]:
    """What every training stage depends on beside its own section: seed, prompt, latents, the numbers' type.

    ``latents`` False: a model without them, which is the same whatever the latent settings are.
    """
    return {
        "seed": settings.seed,
        "model": settings.model.model_dump(mode="json", include={"dtype", "attention", "train_vision", "lora"}),
        **use(settings, latents=latents),
    }


def use(settings: Settings, *, latents: bool = True) -> dict[str, Any]:
    """How a model of this recipe is to be used: the prompt, the latents, the variant (as in its mirage.json)."""
    latent = {"latent": identity(settings.latent)} if latents else {}
    return {"prompt": identity(settings.prompt), **latent, "variant": settings.teacher.variant}


def train(context: StageContext, program: Program, **options: Any) -> dict[str, Any]:
    """Run a training program on the context's inputs, going on from its last good checkpoint if there is one.

    Checkpoints are kept in the store under the stage's fingerprint until the result is published. ``options``: what
    only this program understands (``Job.options``).
    """
    from mirage_core.training.job import Job
    from mirage_core.training.memory import fitted

    job = Job(
        program=program,
        settings=context.settings,
        seed=context.settings.seed,
        inputs=dict(context.input_paths),
        digests={name: given.digest for name, given in context.inputs.items()},
        output=context.output,
        scratch=context.scratch,
        label=f"{program}-{context.fingerprint[:8]}",
        options=options,
    )
    told = fitted(job, lambda fitting: run_resuming(context, fitting), context.progress)
    return {**final_figures(context.output), "engine": context.settings.runtime.engine, **told}


def run_resuming(context: StageContext, job: Job) -> None:
    """Run a training job from the stage's last good checkpoint on, and keep its checkpoints in the store."""
    from mirage_core.training.launch import run_job

    found = context.store.latest_checkpoint(context.fingerprint, context.progress)
    if found is not None:
        context.progress(ProgressEvent(stage=job.program, message=f"resumes from the checkpoint of step {found[0]}"))
    relay = Relay(context.progress)
    try:
        run_job(
            job.model_copy(update={"resume_from": found[1] if found is not None else None}),
            progress=relay,
            on_checkpoint=lambda step, folder: keep_checkpoint(context, job.program, step, folder, relay),
        )
    finally:
        relay.flush()


def keep_checkpoint(context: StageContext, program: Program, step: int, folder: Path, progress: Progress) -> None:
    """Keep a checkpoint in the store; a store that is away for a while is no reason to stop training."""
    keep = context.settings.runtime.keep_checkpoints
    try:
        context.store.save_checkpoint(context.fingerprint, step, folder, progress, keep=keep)
    except StoreUnavailable as problem:
        said = f"the checkpoint of step {step} was not kept, training goes on without it: {problem}"
        progress(ProgressEvent(stage=program, message=said))


class Relay:
    """A ``Progress`` for several threads: what others than its maker say is passed on when that one says something.

    Checkpoints are kept by a thread of their own, and what shows progress (Prefect's) belongs to the stage's.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._owner = threading.current_thread()
        self._waiting: SimpleQueue[ProgressEvent] = SimpleQueue()

    def __call__(self, event: ProgressEvent) -> None:
        """Report an event."""
        if threading.current_thread() is not self._owner:
            self._waiting.put(event)
            return
        self.flush()
        self._progress(event)

    def flush(self) -> None:
        """Pass on what waits; to be called by the maker."""
        while not self._waiting.empty():
            self._progress(self._waiting.get())


def final_figures(folder: Path) -> dict[str, Any]:
    """The steps of a trained model and its main figures, each the mean over the last tenth of its curve.

    Those of validations are of the weights that were kept: the last, or the best.
    """
    from mirage_core.evaluation.curves import last_step, read_curves, tail_mean

    curves = read_curves(folder)
    shown = ("loss", "visual", "text", "cosine", "accuracy", "reward")
    means = {name: round(tail_mean(curves[name]), 4) for name in shown if curves.get(name)}
    tokens = round(sum(value for _, value in curves.get("step_tokens", ())))
    return {"steps": last_step(curves) or 0, "tokens": tokens, **means, **_held_out(folder, curves)}


def _held_out(folder: Path, curves: Mapping[str, Sequence[tuple[int, float]]]) -> dict[str, Any]:
    """The figures of the validation of the kept weights, and their step where it was the best one."""
    found = {name: dict(curves[name]) for name in ("validation/loss", "validation/accuracy") if curves.get(name)}
    if not found:
        return {}
    history = json.loads((folder / "mirage.json").read_text(encoding="utf-8"))["history"]
    kept = history[-1].get("kept_step")
    told = {} if kept is None else {"kept_step": kept}
    return told | {name: round(points[max(points) if kept is None else kept], 4) for name, points in found.items()}
