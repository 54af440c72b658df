"""The examples of a supervised program: how they are encoded, and in which order they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from mirage_core.config import LvrSettings, Settings, TrainSettings
from mirage_core.distributed.context import current_process
from mirage_core.distributed.job import Job, ProgramName
from mirage_core.errors import DataError
from mirage_core.latent.encoder import Encoder, RegionLayout
from mirage_core.latent.examples import EncodedExample
from mirage_core.latent.observed import ObservedEncoder
from mirage_core.methods import programs
from mirage_core.model.loading import LoadedModel
from mirage_core.store.records import load_examples
from mirage_core.training.data.feature_cache import (
    ExampleSource,
    OnDemandSource,
    lengths_by,
    lengths_of,
    precompute_features,
)
from mirage_core.training.data.sampler import BatchOrder, EpochOrder, steps_of
from mirage_core.training.sft.pooler import answer_labels
from mirage_core.types import Progress, ProgressEvent, TrainingExample


@dataclass(frozen=True)
class SupervisedData:
    """Encoded examples, the order of batches, the examples' names, and their lengths where batches are by length.

    ``examples``: all examples of the split, with frames where all auxiliary images are shown; ``used``: the indices of
    those in any batch.
    """

    source: ExampleSource
    order: BatchOrder
    names: Sequence[str]
    lengths: Sequence[int] | None = None
    examples: Sequence[TrainingExample] = ()
    used: Sequence[int] = ()


def training_data(job: Job, model: LoadedModel, progress: Progress) -> tuple[SupervisedData, int]:
    """Return the job's training examples, and the number of optimizer steps.

    DataError without a training example.
    """
    settings, section = job.settings, job.settings.section(job.program, TrainSettings)
    examples = load_examples(job.input("examples"), split="train", frames=programs()[job.program].shows_auxiliary)
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


def _lengths(job: Job, model: LoadedModel, examples: Sequence[TrainingExample], progress: Progress) -> list[int]:
    if current_process().is_main:
        progress(ProgressEvent(stage="prepare", message=f"counts the tokens of {len(examples)} examples"))
    program = programs()[job.program]
    if not program.observes:
        regions, encoder = region_layout(job.program, job.settings), plain_encoder(job.settings, model)
        return lengths_of(examples, encoder, with_latents=program.has_latents, regions=regions)
    length, shown = observing_encoder(job.settings, model).observed_length, program.shows_auxiliary
    return lengths_by(examples, partial(length, with_latents=program.has_latents, with_image=shown))


def kinds_of(examples: Sequence[TrainingExample]) -> list[int]:
    """Return a number for each example's group and benchmark: those with one number have images of one size."""
    names = [(example.problem.group, example.problem.benchmark) for example in examples]
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}
    return [numbers[name] for name in names]


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
    record, section = programs()[program], settings.section(program, TrainSettings)
    if record.observes:
        return observed_encoder(program, settings, model, examples)
    targets = record.reads_auxiliary or section.holds_to_targets if with_targets is None else with_targets
    with_latents = record.has_latents and record.words != "replaced"
    regions = region_layout(program, settings)

    def encode(index: int) -> EncodedExample:
        encoded = encoder.example(examples[index], with_latents=with_latents, with_targets=targets, regions=regions)
        return answer_labels(encoded, model.ids.latent_end) if record.pooler == "trained" else encoded

    return encode


def region_layout(program: ProgramName, settings: Settings) -> RegionLayout | None:
    """Return how a program's spans show regions of the image; None for most programs."""
    if programs()[program].targets != "regions":
        return None
    section = settings.section(program, LvrSettings)
    return RegionLayout(crop=section.region == "crop", stop_token=section.stop == "vector")


def observed_encoder(
    program: ProgramName, settings: Settings, model: LoadedModel, examples: Sequence[TrainingExample]
) -> Callable[[int], EncodedExample]:
    """Return the function that encodes an example of a program whose observed tokens count (``ObservedEncoder``)."""
    encoder, record = observing_encoder(settings, model), programs()[program]

    def encode(index: int) -> EncodedExample:
        return encoder.observed(examples[index], with_latents=record.has_latents, with_image=record.shows_auxiliary)

    return encode


def plain_encoder(settings: Settings, model: LoadedModel) -> Encoder:
    """Return the encoder of a recipe's examples for a model."""
    return Encoder(model.processor, settings.latent, settings.prompt, settings.teacher.variant)


def observing_encoder(settings: Settings, model: LoadedModel) -> ObservedEncoder:
    """Return the encoder of examples whose observed words count."""
    return ObservedEncoder(model.processor, settings.latent, settings.prompt, settings.teacher.variant)
