"""Run GRPO: improve a model on sampled answers to the training problems. Paper, section 3.3, stage 3."""

from __future__ import annotations

from typing import Literal

from mirage_core.benchmarks.judge import Scorer, judge
from mirage_core.config import GRPOSettings
from mirage_core.distributed.context import current_process
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.distributed.oom import generation_batch_size, micro_batch_size
from mirage_core.errors import DataError, SettingsError
from mirage_core.model.loading import LoadedModel
from mirage_core.model.readout import LatentReadout, saved_readout
from mirage_core.model.weights import SavedModule
from mirage_core.store.records import load_problems
from mirage_core.training.checkpoint.checkpoint import EXTRA_FILES
from mirage_core.training.checkpoint.model_metadata import has_latents, model_metadata
from mirage_core.training.data.visual_tokens.quantise import CODEBOOK_FILE, copy_codebook
from mirage_core.training.grpo.objective import GRPOObjective
from mirage_core.training.loop import TrainPlan, train
from mirage_core.training.sft.train import load_trainable
from mirage_core.training.stepwise.heads import kept_heads
from mirage_core.training.validation.metrics import ValidationAccuracy
from mirage_core.training.validation.validation import Validation, sample
from mirage_core.types import ProgressEvent


def run_grpo(job: Job, events: EventWriter, scorer: Scorer = judge) -> None:
    """Improve ``inputs["model"]`` on the train split of ``inputs["problems"]``: one process of a GRPO job."""
    settings = job.settings
    problems = load_problems(job.input("problems"), split="train")
    if not problems:
        raise DataError(f"{job.input('problems')} has no problem of the split train; raise problems.*.train")
    model = load_trainable(job)
    _say_what_latents_learn(job, events)
    objective = GRPOObjective(
        settings,
        model,
        problems,
        job.seed,
        micro_batch_size=micro_batch_size(job),
        max_rows=generation_batch_size(job),
        cache_folder=job.scratch / EXTRA_FILES,
        pushed=job.scratch / "pushed",
        latents=_latents(job),
        scorer=scorer,
    )
    train(
        objective,
        model,
        _train_plan(settings.grpo),
        job,
        events,
        model_metadata(job, model),
        _validation(job, model, scorer),
        _kept_heads(job, model),
    )
    if (job.input("model") / CODEBOOK_FILE).is_file() and current_process().is_main:
        copy_codebook(job.input("model"), job.output)


def _say_what_latents_learn(job: Job, events: EventWriter) -> None:
    """Say where VLPO's term can teach latents nothing: on the policy that made them they are their own means."""
    settings = job.settings.grpo
    if settings.latent_term == "aligned" and settings.updates_per_rollout == 1 and current_process().is_main:
        message = (
            "grpo.latent_term aligned has no gradient on policy but that of the KL, and updates_per_rollout is 1: "
            "raise it, or sample latents (latent_sigma)"
        )
        events(ProgressEvent(stage=job.program, message=message))


def _kept_heads(job: Job, model: LoadedModel) -> tuple[SavedModule, ...]:
    """Return what the model's answers need beside it, saved on as it is: heads that choose codes, or a readout.

    SettingsError for a readout's head and recomputed latents, which are hidden states.
    """
    if not isinstance(model.readout, LatentReadout):
        return () if model.readout is None else (kept_heads(job.input("model"), model.backbone.hidden_size),)
    if model.readout.head is not None and job.settings.grpo.latents == "recompute":
        raise SettingsError(
            "grpo.latents is recompute, and the model's latents are read off its hidden states by a head: set "
            "grpo.latents to replay"
        )
    return (saved_readout(model.readout),)


def _validation(job: Job, model: LoadedModel, scorer: Scorer) -> Validation | None:
    """Return the validation on answers to problems of the validation split; None without one.

    DataError where there is no such problem.
    """
    settings = job.settings.grpo.validation
    if settings.every is None:
        return None
    problems = load_problems(job.input("problems"), split="validation")
    if not problems:
        raise DataError(
            f"{job.input('problems')} has no problem of the split validation, which grpo.validation.every needs; "
            "raise problems.*.validation"
        )
    sampled = [problems[index] for index in sample(len(problems), settings.problems, job.seed)]
    accuracy = ValidationAccuracy(model, job.settings, sampled, _latents(job), job.portion, scorer)
    return Validation(settings, (accuracy,))


def _latents(job: Job) -> Literal["on", "off"]:
    return "on" if has_latents(job) else "off"


def _train_plan(settings: GRPOSettings) -> TrainPlan:
    return TrainPlan(
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        schedule="constant",
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optimizer=settings.optimizer,
    )
