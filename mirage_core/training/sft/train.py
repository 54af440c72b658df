"""The supervised programs: text (direct and CoT SFT), grounding (stage 1), relaxation (stage 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

from mirage_core.config import Settings, TrainSettings
from mirage_core.distributed.collectives import process_device
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import TEXT_ONLY, Job, Program
from mirage_core.distributed.oom import portion_of
from mirage_core.errors import DataError, SettingsError
from mirage_core.latent.encoder import Encoder
from mirage_core.latent.examples import EncodedExample
from mirage_core.model.loading import LoadedModel, load_model
from mirage_core.model.lora import add_adapters
from mirage_core.store.records import load_examples
from mirage_core.training.data.feature_cache import EncodedOnDemand, Source, lengths_of, prepare
from mirage_core.training.data.sampler import EpochOrder, SameBatch, steps_of
from mirage_core.training.loop import TrainPlan, train
from mirage_core.training.model_metadata import about
from mirage_core.training.sft.latent_noise import Hardening
from mirage_core.training.sft.objective import SupervisedData, SupervisedObjective, section
from mirage_core.training.validation.metrics import HeldOutAnswers, HeldOutConstant, HeldOutLosses
from mirage_core.training.validation.validation import Measure, Validation, sample
from mirage_core.types import Progress, ProgressEvent, TrainingExample


def run_supervised(job: Job, rank: int, world_size: int, emit: EventWriter) -> None:
    """One process of a supervised job: trains ``inputs["model"]`` on the train split of ``inputs["examples"]``."""
    chosen = section(job.settings, job.program)
    model = load_trainable(job, rank, world_size)
    data, steps = training_data(job, model, rank, world_size, emit)
    hardening = _hardening(job, steps)
    objective = SupervisedObjective(job.program, job.settings, model, data, portion_of(job), hardening)
    watched = validation(job, model, rank, world_size, emit)
    train(objective, model, plan(chosen, steps), job, rank, world_size, emit, about(job, model), watched)


def _hardening(job: Job, steps: int) -> Hardening | None:
    """What makes stage 2 harder over its steps. SettingsError for latents that are disturbed where there are none."""
    if job.program != "relaxation":
        return None
    relaxation = job.settings.relaxation
    if job.settings.latent.fed == "blank" and (relaxation.latent_noise or relaxation.latent_dropout):
        raise SettingsError(
            f"relaxation.latent_noise is {relaxation.latent_noise} and latent_dropout {relaxation.latent_dropout}, but "
            "latent.fed is blank: there is no latent to disturb. Set both to 0."
        )
    return Hardening(relaxation, job.seed, steps)


def training_data(
    job: Job, model: LoadedModel, rank: int, world_size: int, emit: EventWriter
) -> tuple[SupervisedData, int]:
    """The job's training examples, and the number of optimizer steps.

    Once prepared, the pictures themselves are let go. DataError without a training example.
    """
    settings = job.settings
    chosen = section(settings, job.program)
    examples = load_examples(job.input("examples"), split="train")
    if not examples:
        raise DataError(f"{job.input('examples')} has no example of the split train; raise problems.*.train")
    kinds = kinds_of(examples) if chosen.batch_by == "group" else None
    lengths = _lengths(job, model, examples, rank, world_size, emit) if chosen.batch_by == "length" else None
    order = EpochOrder(len(examples), chosen.batch_size, job.seed, kinds, lengths)
    steps = steps_of(chosen.steps, chosen.epochs, len(examples), chosen.batch_size)
    names = [example.problem.id for example in examples]
    encode = encoding(job.program, settings, model, examples)
    source: Source = EncodedOnDemand(encode)
    if not settings.model.train_vision:
        # The vision tower is frozen: what it says about a picture is the same in every epoch.
        folder = job.scratch / "prepared"
        source = prepare(order.used(steps), encode, model.backbone, folder, rank, world_size, emit)
    return SupervisedData(source, order, names, lengths), steps


def _lengths(
    job: Job, model: LoadedModel, examples: Sequence[TrainingExample], rank: int, world_size: int, tell: Progress
) -> list[int]:
    if rank == 0:
        tell(ProgressEvent(stage="prepare", message=f"counts the tokens of {len(examples)} examples"))
    encoder, with_latents = _encoder(job.settings, model), job.program not in TEXT_ONLY
    return lengths_of(examples, encoder, with_latents=with_latents, rank=rank, world_size=world_size)


def validation(job: Job, model: LoadedModel, rank: int, world_size: int, emit: EventWriter) -> Validation | None:
    """What is measured on the validation split while the program trains; None where nothing is.

    DataError where it is to be measured and there is no validation example.
    """
    chosen = section(job.settings, job.program)
    if chosen.validation.every is None:
        return None
    examples = load_examples(job.input("examples"), split="validation")
    if not examples:
        raise DataError(
            f"{job.input('examples')} has no example of the split validation, which validation.every needs; "
            "raise problems.*.validation"
        )
    measures: list[Measure] = _held_out(job, model, examples, rank, world_size, emit)
    if chosen.validation.problems:
        picked = sample(len(examples), chosen.validation.problems, job.seed)
        problems = [examples[index].problem for index in picked]
        latents: Literal["on", "off"] = "off" if job.program in TEXT_ONLY else "on"
        measures.append(HeldOutAnswers(model, job.settings, problems, latents, rank, world_size, job.portion))
    return Validation(chosen.validation, tuple(measures))


def _held_out(
    job: Job, model: LoadedModel, examples: Sequence[TrainingExample], rank: int, world_size: int, emit: EventWriter
) -> list[Measure]:
    """The program's own losses on a sample of validation examples, in portions as in training, and their yardstick."""
    chosen = section(job.settings, job.program)
    picked = sample(len(examples), chosen.validation.examples, job.seed)
    encode = encoding(job.program, job.settings, model, examples, with_targets=job.program not in TEXT_ONLY)
    source: Source = EncodedOnDemand(encode)
    if not job.settings.model.train_vision:
        folder = job.scratch / "prepared-validation"
        source = prepare(picked, encode, model.backbone, folder, rank, world_size, emit)
    data = SupervisedData(source, SameBatch(picked), [example.problem.id for example in examples])
    portion = portion_of(job) or chosen.micro_batch_size or math.ceil(chosen.batch_size / world_size)
    objective = SupervisedObjective(job.program, job.settings, model, data, portion)
    measures: list[Measure] = [HeldOutLosses(objective, model.backbone, rank, world_size)]
    if job.program not in TEXT_ONLY:
        compression = job.settings.latent.compression
        measures.append(HeldOutConstant(objective, model.backbone, compression, rank, world_size))
    return measures


def kinds_of(examples: Sequence[TrainingExample]) -> list[int]:
    """A number for each example's group and benchmark: those of one number have pictures of one size."""
    names = [(example.problem.group, example.problem.benchmark) for example in examples]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return [numbers[name] for name in names]


def load_trainable(job: Job, rank: int, world_size: int) -> LoadedModel:
    """The job's input model on this process's device, with what learns: adapters, or all but the vision tower."""
    settings = job.settings.model
    device = process_device(rank, world_size)
    model = load_model(job.input("model"), dtype=settings.dtype, attention=settings.attention, device=device)
    if settings.lora is not None:
        add_adapters(model.backbone, settings.lora, model.ids, job.seed)
    elif not settings.train_vision:
        model.backbone.freeze_vision()
    return model


def encoding(
    program: Program,
    settings: Settings,
    model: LoadedModel,
    examples: Sequence[TrainingExample],
    *,
    with_targets: bool | None = None,
) -> Callable[[int], EncodedExample]:
    """How the examples are encoded: with latents but for text, with auxiliary images where ``with_targets`` says so.

    By default where the loss needs them: for grounding, and for relaxation with a grounding_weight.
    """
    encoder = _encoder(settings, model)
    needed = program == "grounding" or (program == "relaxation" and settings.relaxation.grounding_weight > 0)
    targets = needed if with_targets is None else with_targets

    def encode(index: int) -> EncodedExample:
        return encoder.example(examples[index], with_latents=program not in TEXT_ONLY, with_targets=targets)

    return encode


def _encoder(settings: Settings, model: LoadedModel) -> Encoder:
    return Encoder(model.processor, settings.latent, settings.prompt, settings.teacher.variant)


def plan(settings: TrainSettings, steps: int) -> TrainPlan:
    """The loop's plan out of a stage's settings."""
    return TrainPlan(
        steps=steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        schedule=settings.schedule,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        stop_above=settings.stop_above,
        optimizer=settings.optimizer,
    )
