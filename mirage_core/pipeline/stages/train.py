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
from mirage_core.pipeline.stage import StageContext
from mirage_core.types import Progress, ProgressEvent

if TYPE_CHECKING:
    from mirage_core.distributed.job import Job, Program

from dataclasses import replace

from mirage_core.pipeline.stage import Stage


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
    from mirage_core.distributed.job import Job
    from mirage_core.distributed.oom import fitted

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
    from mirage_core.distributed.launch import run_job

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
    except StoreUnavailable as error:
        said = f"the checkpoint of step {step} was not kept, training goes on without it: {error}"
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
    from mirage_core.reports.run.curves import last_step, read_curves, tail_mean

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


def direct_sft_identity(settings: Settings) -> dict[str, Any]:
    """Its own training section, and what every training stage depends on; no latent setting."""
    return {"direct_sft": identity(settings.direct_sft), **use_identity(settings, latents=False)}


def run_direct_sft(context: StageContext) -> dict[str, Any]:
    """Train the base model on the chains without latents."""
    return train(context, "text")


DIRECT_SFT = Stage(
    name="direct-sft",
    version=2,
    kind="model",
    inputs=("model", "examples"),
    identity=direct_sft_identity,
    run=run_direct_sft,
    checkpoints=True,
    gpu=True,
)


def capimagine_identity(settings: Settings) -> dict[str, Any]:
    """Its own training section, and what every training stage depends on; no latent setting."""
    return {"capimagine": identity(settings.capimagine), **use_identity(settings, latents=False)}


def run_capimagine(context: StageContext) -> dict[str, Any]:
    """Train the base model on chains whose pictures are captions, without latents."""
    return train(context, "capimagine")


CAPIMAGINE = Stage(
    name="capimagine",
    version=2,
    kind="model",
    inputs=("model", "examples"),
    identity=capimagine_identity,
    run=run_capimagine,
    checkpoints=True,
    gpu=True,
)


def grounding_identity(settings: Settings) -> dict[str, Any]:
    """Its own training section, and what every training stage depends on."""
    return {"grounding": identity(settings.grounding), **use_identity(settings)}


def run_grounding(context: StageContext) -> dict[str, Any]:
    """Train the base model with the targets fed at the latent positions."""
    return train(context, "grounding")


GROUNDING = Stage(
    name="grounding",
    version=2,
    kind="model",
    inputs=("model", "examples"),
    identity=grounding_identity,
    run=run_grounding,
    checkpoints=True,
    gpu=True,
)


def relaxation_identity(settings: Settings) -> dict[str, Any]:
    """Its own training section, and what every training stage depends on."""
    return {"relaxation": identity(settings.relaxation), **use_identity(settings)}


def run_relaxation(context: StageContext) -> dict[str, Any]:
    """Train a model with its own hidden states fed back."""
    return train(context, "relaxation")


RELAXATION = Stage(
    name="relaxation",
    version=2,
    kind="model",
    inputs=("model", "examples"),
    identity=relaxation_identity,
    run=run_relaxation,
    checkpoints=True,
    gpu=True,
)
WITHOUT_STAGE_1 = replace(RELAXATION, name="without-stage-1")
"""The same from the base model: latents that were never grounded. Paper, ablation."""


def grpo_identity(settings: Settings) -> dict[str, Any]:
    """Its own section, the rule that judges an answer, and what every training stage depends on."""
    return _identity(settings, latents=True)


def text_grpo_identity(settings: Settings) -> dict[str, Any]:
    """The same without latent settings: the model has none."""
    return _identity(settings, latents=False)


def _identity(settings: Settings, *, latents: bool) -> dict[str, Any]:
    rule = settings.evaluation.planning_rule
    return {"grpo": identity(settings.grpo), "planning_rule": rule, **use_identity(settings, latents=latents)}


def run_grpo(context: StageContext) -> dict[str, Any]:
    """Improve a model with latents on sampled answers to the training problems."""
    return train(context, "grpo")


def run_text_grpo(context: StageContext) -> dict[str, Any]:
    """Improve a model without latents on sampled answers to the training problems."""
    return train(context, "grpo", latents="off")


GRPO = Stage(
    name="grpo",
    version=2,
    kind="model",
    inputs=("model", "problems"),
    identity=grpo_identity,
    run=run_grpo,
    checkpoints=True,
    gpu=True,
)
"""After both stages."""
WITHOUT_STAGE_1_GRPO = replace(GRPO, name="without-stage-1-grpo")
DIRECT_SFT_GRPO = replace(GRPO, name="direct-sft-grpo", identity=text_grpo_identity, run=run_text_grpo)
CAPIMAGINE_GRPO = replace(DIRECT_SFT_GRPO, name="capimagine-grpo")
