"""Run a supervised program: text (direct and CoT SFT), grounding (stage 1), relaxation (stage 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from mirage_core.config import LatentSettings, TrainSettings
from mirage_core.distributed.collectives import process_device
from mirage_core.distributed.context import current_process
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.distributed.oom import micro_batch_size
from mirage_core.errors import DataError
from mirage_core.methods import programs
from mirage_core.model.loading import LoadedModel, load_model
from mirage_core.model.lora import add_adapters
from mirage_core.store.records import load_examples
from mirage_core.training.checkpoint.model_metadata import check_own_settings, has_latents, model_metadata
from mirage_core.training.data.feature_cache import ExampleSource, OnDemandSource, precompute_features
from mirage_core.training.data.sampler import FixedBatch
from mirage_core.training.data.visual_tokens.quantise import copy_codebook
from mirage_core.training.loop import TrainPlan, train
from mirage_core.training.sft.beside import (
    Beside,
    beside_of,
    check_codes,
    curriculum_of,
    teacher_rows_of,
    visual_tokens_of,
)
from mirage_core.training.sft.examples import SupervisedData, example_encoder, training_data
from mirage_core.training.sft.objective import SupervisedObjective
from mirage_core.training.sft.targets import targets_of
from mirage_core.training.stepwise.setup import FilmData
from mirage_core.training.validation.metrics import ConstantBaseline, ValidationAccuracy, ValidationLoss
from mirage_core.training.validation.validation import Metric, Validation, sample
from mirage_core.types import Progress, TrainingExample


def run_supervised(job: Job, events: EventWriter) -> None:
    """Train ``inputs["model"]`` on the train split of ``inputs["examples"]``: one process of a supervised job."""
    check_codes(job)
    model = load_trainable(job)
    data, steps = training_data(job, model, events)
    beside, program = beside_of(job, model, data, steps), programs()[job.program]
    model = answering(job, model, beside)
    objective = SupervisedObjective(
        job.program, job.settings, model, data, beside, micro_batch_size=micro_batch_size(job)
    )
    plan = train_plan(job.settings.section(job.program, TrainSettings), steps)
    if beside.curriculum is not None and beside.curriculum.schedule is not None:
        plan = replace(plan, resets=beside.curriculum.schedule.resets)
    watched = validation(job, model, events, beside)
    train(objective, model, plan, job, events, model_metadata(job, model), watched, beside.saved(program))
    if visual_tokens_of(job) and current_process().is_main:
        copy_codebook(job.input("examples"), job.output)


def answering(job: Job, model: LoadedModel, beside: Beside) -> LoadedModel:
    """Return the model with what its answers read latents off with, as it is while it trains (for a validation)."""
    if job.settings.latent.input == "code" and beside.stepwise is not None:
        model = replace(model, readout=beside.stepwise.heads.code_reader)
    return model if beside.readout is None else replace(model, readout=beside.readout)


def validation(job: Job, model: LoadedModel, progress: Progress, beside: Beside) -> Validation | None:
    """Return the validation of the program; None without one.

    DataError where there is no validation example.
    """
    settings = job.settings.section(job.program, TrainSettings).validation
    if settings.every is None:
        return None
    frames = programs()[job.program].shows_auxiliary
    examples = load_examples(job.input("examples"), split="validation", frames=frames)
    if not examples:
        raise DataError(
            f"{job.input('examples')} has no example of the split validation, which validation.every needs; "
            "raise problems.*.validation"
        )
    metrics = _loss_metrics(job, model, examples, progress, beside)
    if settings.problems:
        problems = [examples[index].problem for index in sample(len(examples), settings.problems, job.seed)]
        latents: Literal["on", "off"] = "on" if programs()[job.program].has_latents else "off"
        metrics.append(ValidationAccuracy(model, job.settings, problems, latents, job.portion))
    return Validation(settings, tuple(metrics))


def _loss_metrics(
    job: Job, model: LoadedModel, examples: Sequence[TrainingExample], progress: Progress, beside: Beside
) -> list[Metric]:
    """Return the program's own losses on a sample of validation examples, and the baseline of their cosine.

    Cosines with the one picture say nothing where latents are held to frames or stand for words, or have spans of
    different lengths.
    """
    program, latent = programs()[job.program], job.settings.latent
    one_picture = program.shows_one_image and beside.stepwise is None and latent.length == "fixed"
    compared = one_picture and program.pooler != "trained"
    indices = sample(len(examples), job.settings.section(job.program, TrainSettings).validation.examples, job.seed)
    encode = example_encoder(job.program, job.settings, model, examples, with_targets=compared or None)
    source: ExampleSource = OnDemandSource(encode)
    if not model.backbone.trains_vision:
        folder = job.scratch / "prepared-validation"
        source = precompute_features(indices, encode, model.backbone, folder, progress)
    data = SupervisedData(source, FixedBatch(indices), [example.problem.id for example in examples])
    films = FilmData(examples, "validation", indices, job.input("examples"), job.scratch / "films-validation")
    own = replace(
        beside,
        regularizer=None,
        stepwise=None if beside.stepwise is None else beside.stepwise.on(films),
        curriculum=curriculum_of(job, model, examples),
        teacher_rows=teacher_rows_of(job, model, examples),
    )
    objective = SupervisedObjective(job.program, job.settings, model, data, own, micro_batch_size=micro_batch_size(job))
    metrics: list[Metric] = [ValidationLoss(objective, model.backbone)]
    if compared:
        targets = partial(targets_of, model.backbone, compression=latent.compression, pooler=beside.pooler)
        metrics.append(ConstantBaseline(objective, targets))
    return metrics


def load_trainable(job: Job) -> LoadedModel:
    """Load the job's input model on this process's device: with adapters to train, or frozen, the vision tower or all.

    A model that learns query tokens gets as many as its spans need, one that writes visual tokens one for each code of
    its examples. SettingsError where the model was trained under other settings than the job's.
    """
    settings = job.settings.model
    model = load_model(
        job.input("model"),
        dtype=settings.dtype,
        attention=settings.attention,
        device=process_device(),
        query_tokens=_query_tokens(job.settings.latent) if has_latents(job) else 0,
        visual_tokens=visual_tokens_of(job),
    )
    check_own_settings(job, model.about)
    if programs()[job.program].pooler == "trained":
        model.backbone.requires_grad_(False)
    elif settings.lora is not None:
        add_adapters(model.backbone, settings.lora, model.ids, job.seed)
    elif not settings.train_vision:
        model.backbone.freeze_vision()
    if job.settings.runtime.fused:
        model.backbone.fuse()
    return model


def _query_tokens(latent: LatentSettings) -> int:
    return max(latent.num_latents, latent.span_limit) if latent.input == "query" else 0


def train_plan(settings: TrainSettings, steps: int) -> TrainPlan:
    """Return the loop's plan from a stage's settings."""
    return TrainPlan(
        steps=steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        schedule=settings.schedule,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        max_loss_ratio=settings.max_loss_ratio,
        optimizer=settings.optimizer,
    )
