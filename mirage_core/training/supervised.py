"""The supervised programs: text (direct and CoT SFT), grounding (stage 1), relaxation (stage 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from mirage_core.config import GroundingSettings, Settings, TrainSettings
from mirage_core.errors import DataError
from mirage_core.latent.encoded import EncodedExample
from mirage_core.latent.encoding import Encoder
from mirage_core.latent.layout import LatentBatch, collate
from mirage_core.model.base import LoadedModel, load_model
from mirage_core.model.lora import add_adapters
from mirage_core.store.records import load_examples
from mirage_core.training.data import Batches, EpochOrder, Portion, SameBatch, deal, steps_of
from mirage_core.training.events import EventWriter
from mirage_core.training.held_out import HeldOutAnswers, HeldOutConstant, HeldOutLosses
from mirage_core.training.in_step import Widths, agreed, stand_in
from mirage_core.training.job import TEXT_ONLY, Job, Program
from mirage_core.training.lengths import lengths_of
from mirage_core.training.loop import TrainPlan, train
from mirage_core.training.losses import LossParts, counts, grounding_loss, relaxation_loss, text_loss
from mirage_core.training.memory import portion_of
from mirage_core.training.meters import work_of
from mirage_core.training.objective import MicroBatch, contribution
from mirage_core.training.prepared import EncodedOnDemand, Source, prepare
from mirage_core.training.processes import process_device
from mirage_core.training.provenance import about
from mirage_core.training.validation import Measure, Validation, sample
from mirage_core.types import Progress, ProgressEvent, TrainingExample

DIAGNOSTICS_EVERY = 10


def run_supervised(job: Job, rank: int, world_size: int, emit: EventWriter) -> None:
    """One process of a supervised job: trains ``inputs["model"]`` on the train split of ``inputs["examples"]``."""
    chosen = section(job.settings, job.program)
    model = load_trainable(job, rank, world_size)
    data, steps = training_data(job, model, rank, world_size, emit)
    objective = SupervisedObjective(job.program, job.settings, model, data, portion_of(job))
    watched = validation(job, model, rank, world_size, emit)
    train(objective, model, plan(chosen, steps), job, rank, world_size, emit, about(job, model), watched)


@dataclass(frozen=True)
class SupervisedData:
    """Encoded examples, the batches made of them, their names, and their lengths where batches go by them."""

    source: Source
    order: Batches
    names: Sequence[str]
    lengths: Sequence[int] | None = None


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


def section(settings: Settings, program: Program) -> TrainSettings:
    """The settings a supervised program reads."""
    return {
        "text": settings.direct_sft,
        "capimagine": settings.capimagine,
        "grounding": settings.grounding,
        "relaxation": settings.relaxation,
    }[program]


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

    By default for grounding alone, whose loss needs them.
    """
    encoder = _encoder(settings, model)
    targets = program == "grounding" if with_targets is None else with_targets

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


@dataclass(frozen=True)
class SupervisedBatch:
    """A laid-out micro-batch, what it holds, and whether the cosines are wanted this time."""

    batch: LatentBatch
    counts: Mapping[str, float]
    diagnostics: bool


class SupervisedObjective:
    """Batches of examples under one of the three supervised losses."""

    def __init__(
        self,
        program: Program,
        settings: Settings,
        model: LoadedModel,
        data: SupervisedData,
        portion: int | None = None,
    ) -> None:
        self._program, self._latent = program, settings.latent
        self._settings = section(settings, program)
        self._model, self._data = model, data
        self._portion = portion or self._settings.micro_batch_size

    def modules(self) -> Mapping[str, nn.Module]:
        """Nothing beside the backbone."""
        return {}

    def micro_batches(self, step: int, rank: int, world_size: int) -> Sequence[MicroBatch]:
        """This process's share of the step's examples."""
        indices, lengths = self._data.order.batch(step), self._data.lengths
        if lengths is not None:
            indices = tuple(sorted(indices, key=lambda index: (lengths[index], index)))
        portions = deal(indices, rank, world_size, self._portion, neighbours=lengths is not None)
        laid_out = [self._laid_out(portion) for portion in portions]
        widths = self._widths(laid_out, world_size)
        return [
            self._micro_batch(portion, step, batch, block)
            for portion, batch, block in zip(portions, laid_out, widths, strict=True)
        ]

    def examples(self, step: int) -> Sequence[str]:
        """The problems of a step's examples."""
        return [self._data.names[index] for index in self._data.order.batch(step)]

    def _laid_out(self, portion: Portion, widths: Widths | None = None) -> LatentBatch:
        """The rows of a portion; with ``widths`` another one that brings about latent blocks as wide."""
        rows = [self._data.source.get(index) for index in portion.indices]
        return collate(
            rows if widths is None else [*rows, stand_in(widths, self._model.ids, rows)],
            self._model.ids,
            self._model.backbone.position_ids,
            align=self._program == "relaxation",
        )

    def _widths(self, batches: Sequence[LatentBatch], world_size: int) -> Sequence[Widths]:
        """The latent blocks of each forward pass: those of all processes where these must keep in step."""
        own = [_blocks(batch) for batch in batches]
        return agreed(own) if world_size > 1 and self._model.backbone.sharded else own

    def _micro_batch(self, portion: Portion, step: int, batch: LatentBatch, widths: Widths) -> MicroBatch:
        held, work = counts(batch), work_of(batch)
        if self._program not in TEXT_ONLY:
            held["cosine_input"] = held["visual"] if self._compares_inputs(batch) else 0.0
            held["cosine_constant"] = held["visual"] if len(batch.span_rows) > 1 else 0.0
        if widths != _blocks(batch):
            batch = self._laid_out(portion, widths)
        data = SupervisedBatch(batch.to(self._model.backbone.device), held, step % DIAGNOSTICS_EVERY == 0)
        return MicroBatch(data, held, portion.filler, work)

    def _compares_inputs(self, batch: LatentBatch) -> bool:
        """Whether ``cosine_diagnostics`` can tell the cosine of the input images of this micro-batch."""
        sizes = self._model.backbone.image_tokens(batch.grid_thw)
        first = dict(reversed(list(zip(batch.image_rows.tolist(), sizes, strict=True))))
        most = int(batch.span_lengths.max()) if len(batch.span_lengths) else 0
        return all(first.get(row, 0) >= most for row in batch.span_rows.tolist())

    def loss(self, backbone: nn.Module, data: SupervisedBatch, totals: Mapping[str, float]) -> LossParts:
        """What a micro-batch adds to the loss of the step: every part weighed by its share of the counts."""
        found = self._found(backbone, data)
        parts = {
            name: contribution(value, data.counts[_counted_as(name)], totals[_counted_as(name)])
            for name, value in found.parts.items()
        }
        for name in ("cosine_input", "cosine_constant") if "cosine" in parts else ():
            if totals[name]:  # told in every process, though not every one has it
                parts.setdefault(name, torch.zeros(()))
        total = parts["text"]
        if isinstance(self._settings, GroundingSettings):
            total = parts["visual"] + self._settings.text_weight * parts["text"]
        return LossParts(total, {name: value.detach() for name, value in parts.items()})

    def _found(self, backbone: Any, data: SupervisedBatch) -> LossParts:
        if isinstance(self._settings, GroundingSettings):
            return grounding_loss(backbone, data.batch, self._settings, self._latent, diagnostics=data.diagnostics)
        if self._program in TEXT_ONLY:
            return text_loss(backbone, data.batch, checkpointing=self._settings.gradient_checkpointing)
        targets_known = data.diagnostics and len(data.batch.auxiliary_grid_thw) > 0
        return relaxation_loss(
            backbone,
            data.batch,
            checkpointing=self._settings.gradient_checkpointing,
            compared=self._latent.compression if targets_known else None,
        )


def _blocks(batch: LatentBatch) -> Widths:
    """The most latents of each block of spans; nothing where latents are not rolled out."""
    return tuple(block.width for block in batch.blocks)


def _counted_as(part: str) -> str:
    """Which count a part is a mean over: text over tokens, the figures of latents over the latents that have them."""
    return part if part in ("text", "cosine_input", "cosine_constant") else "visual"
