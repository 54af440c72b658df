"""The training stages: each runs its program as a job of several processes, with checkpoints in the store."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from mirage_core.config import InferenceSettings, Settings, TrainSettings, identity
from mirage_core.errors import StoreUnavailable
from mirage_core.methods import TRAIN_STAGES, TrainStage
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.types import Progress, ProgressEvent

if TYPE_CHECKING:
    from mirage_core.distributed.job import Job, ProgramName


def common_identity(settings: Settings, *, latents: bool) -> dict[str, Any]:
    """Return what every training stage depends on beside its own section: seed, number types, prompt, latents.

    Without ``latents`` no latent setting: the model is the same whatever they are.
    """
    return {
        "seed": settings.seed,
        "model": settings.model.model_dump(mode="json", include={"dtype", "attention", "train_vision", "lora"}),
        **InferenceSettings.of(settings).as_metadata(latents=latents),
    }


def train(context: StageContext, program: ProgramName, **options: Any) -> dict[str, Any]:
    """Run a training program on the context's inputs, resuming from its last good checkpoint if there is one.

    Checkpoints stay in the store under the stage's fingerprint until the result is published. ``options`` are for this
    program alone (``Job.options``).
    """
    from mirage_core.distributed.job import Job
    from mirage_core.distributed.oom import OutOfMemoryBackoff

    job = Job(
        program=program,
        settings=context.settings,
        seed=context.settings.seed,
        inputs=dict(context.input_paths),
        digests={name: artifact.digest for name, artifact in context.inputs.items()},
        output=context.output,
        scratch=context.scratch,
        label=f"{program}-{context.fingerprint[:8]}",
        options=options,
    )
    backoff = OutOfMemoryBackoff(job, context.progress)
    for attempt in backoff:
        with attempt:
            run_resuming(context, backoff.job)
    return {**final_metrics(context.output), "engine": context.settings.runtime.engine, **backoff.summary}


def run_resuming(context: StageContext, job: Job) -> None:
    """Run a training job from the stage's last good checkpoint, and save its checkpoints in the store."""
    from mirage_core.distributed.launch import run_job

    step, folder = context.store.latest_checkpoint(context.fingerprint, context.progress) or (None, None)
    if folder is not None:
        context.progress(ProgressEvent(stage=job.program, message=f"resumes from the checkpoint of step {step}"))
    relay = ProgressRelay(context.progress)
    try:
        run_job(
            job.model_copy(update={"resume_from": folder}),
            progress=relay,
            on_checkpoint=lambda step, folder: save_checkpoint(context, job.program, step, folder, relay),
        )
    finally:
        relay.flush()


def save_checkpoint(context: StageContext, program: ProgramName, step: int, folder: Path, progress: Progress) -> None:
    """Save a checkpoint in the store; training continues when the store is unavailable for a while."""
    keep = context.settings.runtime.keep_checkpoints
    try:
        context.store.save_checkpoint(context.fingerprint, step, folder, progress, keep=keep)
    except StoreUnavailable as error:
        message = f"the checkpoint of step {step} was not saved, training goes on without it: {error}"
        progress(ProgressEvent(stage=program, message=message))


class ProgressRelay:
    """A ``Progress`` for several threads: events of others are passed on with the next event of its own thread.

    Checkpoints are saved in a thread of their own, and Prefect's progress may be used in the stage's thread alone.
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
        """Pass on the waiting events; to be called in its own thread."""
        while not self._waiting.empty():
            self._progress(self._waiting.get())


def final_metrics(folder: Path) -> dict[str, Any]:
    """Return the steps of a trained model and its main metrics, each the mean over the last tenth of its curve.

    Validation metrics are of the weights that were saved: the last, or the best.
    """
    from mirage_core.reports.curves import last_step, read_curves, tail_mean

    curves = read_curves(folder)
    shown = ("loss", "visual", "alignment", "text", "cosine", "accuracy", "reward")
    means = {name: round(tail_mean(curves[name]), 4) for name in shown if curves.get(name)}
    tokens = round(sum(value for _, value in curves.get("step_tokens", ())))
    return {"steps": last_step(curves) or 0, "tokens": tokens, **means, **_validation_metrics(folder, curves)}


def _validation_metrics(folder: Path, curves: Mapping[str, Sequence[tuple[int, float]]]) -> dict[str, Any]:
    """Return the validation metrics of the saved weights, and their step where it was the best one."""
    points = {name: dict(curves[name]) for name in ("validation/loss", "validation/accuracy") if curves.get(name)}
    if not points:
        return {}
    step = json.loads((folder / "mirage.json").read_text(encoding="utf-8"))["history"][-1].get("kept_step")
    metrics = {name: round(values[max(values) if step is None else step], 4) for name, values in points.items()}
    return metrics if step is None else {"kept_step": step, **metrics}


def train_stage(record: TrainStage) -> Stage:
    """Return the pipeline stage of a training stage's record."""
    program = record.program

    def stage_identity(settings: Settings) -> dict[str, Any]:
        """Its own section, what every training stage depends on, and with rewards the rule that judges an answer."""
        rule = {"planning_rule": settings.evaluation.planning_rule} if program.reinforces else {}
        split = not program.reinforces and settings.section(program.name, TrainSettings).reads_steps
        steps = {"captions_of": settings.captions.of} if split else {}  # how captions are split into steps
        own = {program.section: identity(settings.training(program.name)), **steps, **rule}
        return {**own, **common_identity(settings, latents=record.latents)}

    def run(context: StageContext) -> dict[str, Any]:
        """Train the model further; a program that teaches latents leaves them out where the model has none."""
        options = {} if program.has_latents == record.latents else {"latents": "off"}
        return train(context, program.name, **options)

    return Stage(
        name=record.name,
        version=2,
        kind="model",
        inputs=tuple(record.inputs),
        identity=stage_identity,
        run=run,
        checkpoints=True,
        gpu=True,
    )


TRAIN: dict[str, Stage] = {record.name: train_stage(record) for record in TRAIN_STAGES.values()}
