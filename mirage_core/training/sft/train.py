"""Run a supervised program: text (direct and CoT SFT), grounding (stage 1), relaxation (stage 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from mirage_core.config import (
    CoconutSettings,
    CodiSettings,
    LatentSettings,
    LvrSettings,
    RelaxationSettings,
    Settings,
    TextTrainSettings,
    TrainSettings,
)
from mirage_core.distributed.collectives import process_device
from mirage_core.distributed.context import current_process
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job, ProgramName
from mirage_core.distributed.oom import micro_batch_size
from mirage_core.errors import DataError, SettingsError
from mirage_core.latent.encoder import RegionLayout
from mirage_core.latent.examples import EncodedExample
from mirage_core.methods import programs
from mirage_core.model.loading import LoadedModel, load_model
from mirage_core.model.lora import add_adapters
from mirage_core.model.readout import LatentReadout, saved_readout
from mirage_core.store.records import load_examples
from mirage_core.training.data.feature_cache import (
    ExampleSource,
    OnDemandSource,
    lengths_by,
    lengths_of,
    precompute_features,
)
from mirage_core.training.data.sampler import EpochOrder, FixedBatch, steps_of
from mirage_core.training.loop import TrainPlan, train
from mirage_core.training.model_metadata import check_own_settings, has_latents, model_metadata
from mirage_core.training.monet.teacher_states import TeacherStates
from mirage_core.training.sft.beside import (
    check_codes,
    curriculum_of,
    plain_encoder,
    pooler_of,
    readout_of,
    step_decoding_of,
    teacher_rows_of,
    visual_tokens_of,
)
from mirage_core.training.sft.latent_noise import LatentRegularizer
from mirage_core.training.sft.objective import SupervisedData, SupervisedObjective, section_of
from mirage_core.training.sft.pooler import Pooler, answer_labels, saved_pooler
from mirage_core.training.sft.step_decoder import StepDecoding
from mirage_core.training.sft.targets import targets_of
from mirage_core.training.stepwise.setup import FilmData, Stepwise, make_stepwise
from mirage_core.training.validation.metrics import ConstantBaseline, ValidationAccuracy, ValidationLoss
from mirage_core.training.validation.validation import Metric, Validation, sample
from mirage_core.training.visual_tokens.quantise import copy_codebook
from mirage_core.types import Progress, ProgressEvent, TrainingExample


def run_supervised(job: Job, events: EventWriter) -> None:
    """Train ``inputs["model"]`` on the train split of ``inputs["examples"]``: one process of a supervised job."""
    check_codes(job)
    model = load_trainable(job)
    data, steps = training_data(job, model, events)
    regularizer, stepwise = _regularizer(job, steps), stepwise_grounding(job, model, data)
    if job.settings.latent.input == "code" and stepwise is not None:
        model = replace(model, readout=stepwise.heads.code_reader)  # answers of a validation use the head as it is then
    pooler, readout = pooler_of(job, model), readout_of(job, model)
    if readout is not None:
        model = replace(model, readout=readout)  # so do latents that a readout reads
    curriculum = curriculum_of(job, model, data.examples, steps)
    decoding = None if curriculum is None else step_decoding_of(job, model, curriculum)
    teacher = TeacherStates(job.input("states")) if programs()[job.program].teacher != "none" else None
    objective = SupervisedObjective(
        job.program,
        job.settings,
        model,
        data,
        micro_batch_size(job),
        regularizer,
        stepwise,
        pooler,
        readout,
        curriculum,
        decoding,
        teacher_rows_of(job, model, data.examples),
        teacher,
    )
    beside = () if stepwise is None else stepwise.saved
    if pooler is not None and programs()[job.program].pooler == "trained":
        beside = (*beside, saved_pooler(pooler))
    if readout is not None:
        beside = (*beside, saved_readout(readout))
    plan = train_plan(section_of(job.settings, job.program), steps)
    if curriculum is not None and curriculum.schedule is not None:
        plan = replace(plan, resets=curriculum.schedule.resets)
    watched = validation(job, model, events, stepwise, pooler, readout, decoding, teacher)
    train(objective, model, plan, job, events, model_metadata(job, model), watched, beside)
    if visual_tokens_of(job) and current_process().is_main:
        copy_codebook(job.input("examples"), job.output)


def _regularizer(job: Job, steps: int) -> LatentRegularizer | None:
    """Return the regularizer of stage 2; None elsewhere. SettingsError for noise on latents that do not exist."""
    relaxation = section_of(job.settings, job.program)
    if not isinstance(relaxation, RelaxationSettings):
        return None
    if not job.settings.latent.rolls_out and (relaxation.latent_noise or relaxation.latent_dropout):
        raise SettingsError(
            f"relaxation.latent_noise is {relaxation.latent_noise} and latent_dropout {relaxation.latent_dropout}, but "
            f"latent.input is {job.settings.latent.input}: there is no latent to add noise to. Set both to 0."
        )
    return LatentRegularizer(relaxation, job.seed, steps)


def training_data(job: Job, model: LoadedModel, progress: Progress) -> tuple[SupervisedData, int]:
    """Return the job's training examples, and the number of optimizer steps.

    DataError without a training example.
    """
    settings, section = job.settings, section_of(job.settings, job.program)
    examples = load_examples(job.input("examples"), split="train", frames=False)
    if not examples:
        raise DataError(f"{job.input('examples')} has no example of the split train; raise problems.*.train")
    kinds = kinds_of(examples) if section.batch_by == "group" else None
    lengths = _lengths(job, model, examples, progress) if section.batch_by == "length" else None
    order = EpochOrder(len(examples), section.batch_size, job.seed, kinds, lengths)
    steps = steps_of(section.steps, section.epochs, len(examples), section.batch_size)
    names = [example.problem.id for example in examples]
    encode = example_encoder(job.program, settings, model, examples)
    source: ExampleSource = OnDemandSource(encode)
    if not model.backbone.trains_vision:  # then an image has the same features in every epoch
        folder = job.scratch / "prepared"
        source = precompute_features(order.used(steps), encode, model.backbone, folder, progress)
    return SupervisedData(source, order, names, lengths, examples, order.used(steps)), steps


def stepwise_grounding(job: Job, model: LoadedModel, data: SupervisedData) -> Stepwise | None:
    """Return the stepwise grounding of the job's program; None without it.

    SettingsError where no training example has what its heads need.
    """
    section = section_of(job.settings, job.program)
    if not isinstance(section, RelaxationSettings | TextTrainSettings) or section.stepwise is None:
        return None
    films = FilmData(data.examples, "train", data.used, job.input("examples"), job.scratch / "films")
    latents = programs()[job.program].has_latents
    return make_stepwise(section.stepwise, job.settings, model, films, job.seed, latents=latents)


def _lengths(job: Job, model: LoadedModel, examples: Sequence[TrainingExample], progress: Progress) -> list[int]:
    if current_process().is_main:
        progress(ProgressEvent(stage="prepare", message=f"counts the tokens of {len(examples)} examples"))
    encoder, program = plain_encoder(job.settings, model), programs()[job.program]
    if not program.observes:
        return lengths_of(examples, encoder, with_latents=program.has_latents)
    shown = program.shows_auxiliary
    return lengths_by(examples, partial(encoder.observed_length, with_latents=program.has_latents, with_image=shown))


def validation(
    job: Job,
    model: LoadedModel,
    progress: Progress,
    stepwise: Stepwise | None = None,
    pooler: Pooler | None = None,
    readout: LatentReadout | None = None,
    decoding: StepDecoding | None = None,
    teacher: TeacherStates | None = None,
) -> Validation | None:
    """Return the validation of the program; None without one.

    DataError where there is no validation example.
    """
    settings = section_of(job.settings, job.program).validation
    if settings.every is None:
        return None
    examples = load_examples(job.input("examples"), split="validation", frames=False)
    if not examples:
        raise DataError(
            f"{job.input('examples')} has no example of the split validation, which validation.every needs; "
            "raise problems.*.validation"
        )
    metrics = _loss_metrics(job, model, examples, progress, stepwise, pooler, readout, decoding, teacher)
    if settings.problems:
        problems = [examples[index].problem for index in sample(len(examples), settings.problems, job.seed)]
        latents: Literal["on", "off"] = "on" if programs()[job.program].has_latents else "off"
        metrics.append(ValidationAccuracy(model, job.settings, problems, latents, job.portion))
    return Validation(settings, tuple(metrics))


def _loss_metrics(
    job: Job,
    model: LoadedModel,
    examples: Sequence[TrainingExample],
    progress: Progress,
    stepwise: Stepwise | None,
    pooler: Pooler | None,
    readout: LatentReadout | None,
    decoding: StepDecoding | None,
    teacher: TeacherStates | None,
) -> list[Metric]:
    """Return the program's own losses on a sample of validation examples, and the baseline of their cosine.

    Cosines with the one picture say nothing where latents are held to frames or stand for words, or have spans of
    different lengths.
    """
    section, program, latent = section_of(job.settings, job.program), programs()[job.program], job.settings.latent
    words = isinstance(section, CoconutSettings | CodiSettings) or program.observes
    one_picture = stepwise is None and not words and latent.length == "fixed" and program.targets == "auxiliary"
    compared = program.has_latents and one_picture and program.pooler != "trained"
    indices = sample(len(examples), section.validation.examples, job.seed)
    encode = example_encoder(job.program, job.settings, model, examples, with_targets=compared or None)
    source: ExampleSource = OnDemandSource(encode)
    if not model.backbone.trains_vision:
        folder = job.scratch / "prepared-validation"
        source = precompute_features(indices, encode, model.backbone, folder, progress)
    data = SupervisedData(source, FixedBatch(indices), [example.problem.id for example in examples])
    films = FilmData(examples, "validation", indices, job.input("examples"), job.scratch / "films-validation")
    own = None if stepwise is None else stepwise.on(films)
    objective = SupervisedObjective(
        job.program,
        job.settings,
        model,
        data,
        micro_batch_size(job),
        stepwise=own,
        pooler=pooler,
        readout=readout,
        curriculum=curriculum_of(job, model, examples),
        step_decoding=decoding,
        teacher_rows=teacher_rows_of(job, model, examples),
        teacher=teacher,
    )
    metrics: list[Metric] = [ValidationLoss(objective, model.backbone)]
    if compared:
        targets = partial(targets_of, model.backbone, compression=latent.compression, pooler=pooler)
        metrics.append(ConstantBaseline(objective, targets))
    return metrics


def kinds_of(examples: Sequence[TrainingExample]) -> list[int]:
    """Return a number for each example's group and benchmark: those with one number have images of one size."""
    names = [(example.problem.group, example.problem.benchmark) for example in examples]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return [numbers[name] for name in names]


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
    return model


def _query_tokens(latent: LatentSettings) -> int:
    return max(latent.num_latents, latent.span_limit) if latent.input == "query" else 0


def example_encoder(
    program: ProgramName,
    settings: Settings,
    model: LoadedModel,
    examples: Sequence[TrainingExample],
    *,
    with_targets: bool | None = None,
) -> Callable[[int], EncodedExample]:
    """Return the function that encodes an example: with latents if the program has them, with auxiliary images if
    ``with_targets``; None: if the loss needs them, since they are fed (grounding) or have a weight (relaxation).

    What a pooler is trained on has labels after its span alone. A curriculum lays its rows out itself, from those all
    in words.
    """
    encoder = plain_encoder(settings, model)
    record, section = programs()[program], section_of(settings, program)
    if record.observes:
        return observed_encoder(program, settings, model, examples)
    weighted = isinstance(section, RelaxationSettings) and section.grounding_weight > 0
    targets = record.reads_auxiliary or weighted if with_targets is None else with_targets
    with_latents = record.has_latents and not isinstance(section, CoconutSettings)
    regions = None
    if isinstance(section, LvrSettings):
        regions = RegionLayout(crop=section.region == "crop", stop_token=section.stop == "vector")

    def encode(index: int) -> EncodedExample:
        encoded = encoder.example(examples[index], with_latents=with_latents, with_targets=targets, regions=regions)
        return answer_labels(encoded, model.ids.latent_end) if record.pooler == "trained" else encoded

    return encode


def observed_encoder(
    program: ProgramName, settings: Settings, model: LoadedModel, examples: Sequence[TrainingExample]
) -> Callable[[int], EncodedExample]:
    """Return the function that encodes an example of a program whose observed tokens count (``Encoder.observed``)."""
    encoder, record = plain_encoder(settings, model), programs()[program]

    def encode(index: int) -> EncodedExample:
        return encoder.observed(examples[index], with_latents=record.has_latents, with_image=record.shows_auxiliary)

    return encode


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
