"""The supervised programs: text (direct and CoT SFT), grounding (stage 1), relaxation (stage 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mirage_core.config import GroundingSettings, Settings, TrainSettings, identity
from mirage_core.errors import DataError
from mirage_core.latent.encoded import EncodedExample
from mirage_core.latent.encoding import Encoder
from mirage_core.latent.layout import LatentBatch, collate
from mirage_core.model.base import LoadedModel, load_model
from mirage_core.store.records import load_examples
from mirage_core.training.data import EpochOrder, Portion, deal, steps_of
from mirage_core.training.events import EventWriter
from mirage_core.training.job import Job, Program
from mirage_core.training.loop import TrainPlan, train
from mirage_core.training.losses import LossParts, counts, grounding_loss, relaxation_loss, text_loss
from mirage_core.training.memory import portion_of
from mirage_core.training.objective import MicroBatch, contribution
from mirage_core.training.prepared import EncodedOnDemand, Source, prepare
from mirage_core.training.processes import process_device
from mirage_core.types import TrainingExample

TEXT_ONLY = ("text", "capimagine")
DIAGNOSTICS_EVERY = 10


def run_supervised(job: Job, rank: int, world_size: int, emit: EventWriter) -> None:
    """One process of a supervised job: trains ``inputs["model"]`` on the train split of ``inputs["examples"]``."""
    chosen = section(job.settings, job.program)
    model = load_trainable(job, rank, world_size)
    source, order, steps = training_data(job, model, rank, world_size, emit)
    objective = SupervisedObjective(job.program, job.settings, model, source, order, portion_of(job))
    train(objective, model, plan(chosen, steps), job, rank, world_size, emit, about(job, model))


def training_data(
    job: Job, model: LoadedModel, rank: int, world_size: int, emit: EventWriter
) -> tuple[Source, EpochOrder, int]:
    """The job's encoded examples, their order, and the number of optimizer steps.

    Once prepared, the pictures themselves are let go. DataError without a training example.
    """
    settings = job.settings
    chosen = section(settings, job.program)
    examples = load_examples(job.input("examples"), split="train")
    if not examples:
        raise DataError(f"{job.input('examples')} has no example of the split train; raise problems.*.train")
    kinds = kinds_of(examples) if chosen.batch_by == "group" else None
    order = EpochOrder(len(examples), chosen.batch_size, job.seed, kinds)
    steps = steps_of(chosen.steps, chosen.epochs, len(examples), chosen.batch_size)
    encode = encoding(job.program, settings, model, examples)
    if settings.model.train_vision:
        return EncodedOnDemand(encode), order, steps
    # The vision tower is frozen: what it says about a picture is the same in every epoch.
    used, folder = order.used(steps), job.scratch / "prepared"
    return prepare(used, encode, model.backbone, folder, rank, world_size, emit), order, steps


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
    """The job's input model on this process's device, its vision tower frozen unless settings say otherwise."""
    settings = job.settings.model
    model = load_model(job.input("model"), dtype=settings.dtype, attention=settings.attention)
    model.backbone.to(process_device(rank, world_size))
    if not settings.train_vision:
        model.backbone.freeze_vision()
    return model


def encoding(
    program: Program, settings: Settings, model: LoadedModel, examples: Sequence[TrainingExample]
) -> Callable[[int], EncodedExample]:
    """How the examples are encoded: with latents but for text, with auxiliary images for grounding alone."""
    encoder = Encoder(model.processor, settings.latent, settings.prompt, settings.teacher.variant)

    def encode(index: int) -> EncodedExample:
        return encoder.example(
            examples[index], with_latents=program not in TEXT_ONLY, with_targets=program == "grounding"
        )

    return encode


def plan(settings: TrainSettings, steps: int) -> TrainPlan:
    """The loop's plan out of a stage's settings."""
    return TrainPlan(
        steps=steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        schedule=settings.schedule,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
    )


def about(job: Job, model: LoadedModel) -> dict[str, Any]:
    """What mirage.json of the trained model says: how to use it, and the stages that made it, oldest first."""
    return {
        **model.about,
        "stage": job.program,
        "stages": [*model.about.get("stages", [model.about.get("stage", "base")]), job.program],
        "prompt": identity(job.settings.prompt),
        "latent": identity(job.settings.latent),
        "variant": job.settings.teacher.variant,
    }


@dataclass(frozen=True)
class SupervisedData:
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
        source: Source,
        order: EpochOrder,
        portion: int | None = None,
    ) -> None:
        self._program, self._latent = program, settings.latent
        self._settings = section(settings, program)
        self._model, self._source, self._order = model, source, order
        self._portion = portion or self._settings.micro_batch_size

    def modules(self) -> Mapping[str, nn.Module]:
        """Nothing beside the backbone."""
        return {}

    def micro_batches(self, step: int, rank: int, world_size: int) -> Sequence[MicroBatch]:
        """This process's share of the step's examples."""
        portions = deal(self._order.batch(step), rank, world_size, self._portion)
        return [self._micro_batch(portion, step) for portion in portions]

    def _micro_batch(self, portion: Portion, step: int) -> MicroBatch:
        batch = collate(
            [self._source.get(index) for index in portion.indices],
            self._model.ids,
            self._model.backbone.position_ids,
            align=self._program == "relaxation",
        )
        held = counts(batch)
        data = SupervisedData(batch.to(self._model.backbone.device), held, step % DIAGNOSTICS_EVERY == 0)
        return MicroBatch(data, held, portion.filler)

    def loss(self, backbone: nn.Module, data: SupervisedData, totals: Mapping[str, float]) -> LossParts:
        """What a micro-batch adds to the loss of the step: every part weighed by its share of the counts."""
        found = self._found(backbone, data)
        parts = {
            name: contribution(value, data.counts[_counted_as(name)], totals[_counted_as(name)])
            for name, value in found.parts.items()
        }
        total = parts["text"]
        if isinstance(self._settings, GroundingSettings):
            total = parts["visual"] + self._settings.text_weight * parts["text"]
        return LossParts(total, {name: value.detach() for name, value in parts.items()})

    def _found(self, backbone: Any, data: SupervisedData) -> LossParts:
        if isinstance(self._settings, GroundingSettings):
            return grounding_loss(backbone, data.batch, self._settings, self._latent, diagnostics=data.diagnostics)
        if self._program in TEXT_ONLY:
            return text_loss(backbone, data.batch)
        return relaxation_loss(backbone, data.batch, checkpointing=self._settings.gradient_checkpointing)


def _counted_as(part: str) -> str:
    """Which count a part is a mean over: the text over tokens, all figures of the latents over latents."""
    return "text" if part == "text" else "visual"
