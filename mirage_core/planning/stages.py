"""The work of every stage of a recipe: its micro-batch, the moments of its memory, the seconds of a step.

Memory is planned for the longest sampled row and the longest allowed answer, tokens and time for the mean row.
Legend: k latents a span.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from mirage_core.config import Settings, TrainSettings
from mirage_core.methods import TRAIN_STAGES, enabled_methods, get_method
from mirage_core.model.loading import FROM_SCRATCH
from mirage_core.planning.activations import ComputeConfig
from mirage_core.planning.batch_shapes import Shape, exercises, sees_auxiliary
from mirage_core.planning.flops import (
    Rates,
    column_seconds,
    encoding,
    forward,
    training,
    training_seconds,
)
from mirage_core.planning.memory import (
    Moment,
    Work,
    image_encoding_moment,
    sampling_moment,
    training_moments,
)
from mirage_core.planning.reinforcement import columns_of, reinforcement
from mirage_core.planning.resident_memory import resident_memory
from mirage_core.planning.sizes import ModelSizes
from mirage_core.planning.stage_batches import stage_batches
from mirage_core.planning.stage_work import StageWork, compute_config, idle_note, image_encoding, optimizer_seconds
from mirage_core.planning.token_counts import RecipeRows
from mirage_core.training.data.feature_cache import FEATURE_LIMIT_BYTES
from mirage_core.training.data.sampler import steps_of
from mirage_core.training.sft.pooler import pooler_parameters


def stage_work(settings: Settings, sizes: ModelSizes, rows: RecipeRows, rates: Rates | None) -> Iterator[StageWork]:
    """Yield every stage that runs a model, in the order of the pipeline."""
    methods = enabled_methods(settings.evaluation.methods, grpo=settings.grpo.enabled)
    needed = {name for method in methods for name in get_method(method).all_stages}
    if settings.model.source == FROM_SCRATCH and settings.model.warmup.steps:
        yield _warmup(settings, sizes, rates)
    if any(TRAIN_STAGES[name].data == "visual-codes" for name in needed):
        yield _visual_codes(settings, sizes, rows, rates)
    for name, stage in TRAIN_STAGES.items():
        if name not in needed:
            continue
        if stage.program.reinforces:
            # A model without latents is planned with one span an answer too: at most k tokens too many.
            yield replace(reinforcement(settings, sizes, rows, rates), name=name)
        else:
            yield _supervised(settings, sizes, rows, rates, name)
    yield _evaluation(settings, sizes, rows, rates, len(set(methods)))


def _supervised(settings: Settings, sizes: ModelSizes, rows: RecipeRows, rates: Rates | None, name: str) -> StageWork:
    section = settings.section(TRAIN_STAGES[name].program.name, TrainSettings)
    runtime, world_size = settings.runtime, settings.runtime.world_size
    local_batch = math.ceil(section.batch_size / world_size)
    at_once = min(section.micro_batch_size or local_batch, local_batch)
    config = compute_config(settings.model, section.gradient_checkpointing)
    sizes = sizes.with_tokens(section.new_tokens).with_readout(section.readout)
    trained = sizes.trained(settings.model, section.new_tokens)
    if TRAIN_STAGES[name].program.pooler == "trained":
        config = replace(config, adapters=0, frozen=True)
        trained = pooler_parameters(sizes.text.hidden, settings.latent.num_latents)
    resident = resident_memory(sizes, settings.model, runtime, section.optimizer, trained)
    steps = steps_of(section.steps, section.epochs, rows.train, section.batch_size)
    merged = sizes.merged_patches if settings.model.train_vision else 0
    batches = partial(stage_batches, settings=settings, name=name, steps=steps)
    longest = batches(
        Shape.longest(rows, settings),
        at_once,
        padded=section.batch_by != "group",
        patches=merged * rows.max("image"),
        peak=True,
    )
    mean = batches(
        Shape.mean(rows, settings), section.batch_size, padded=False, patches=round(merged * rows.mean("image"))
    )
    works = [Work(sizes=sizes, batch=one.batch, config=config, accumulating=at_once < local_batch) for one in longest]
    moments = [*_peaks(training_moments(resident, work) for work in works), image_encoding(sizes, rows, config)]
    operations = [training(sizes, one.batch, config) for one in mean]
    model_flops = sum(one.per_step * model for one, (model, _) in zip(mean, operations, strict=True))
    notes = [idle_note(f"{TRAIN_STAGES[name].program.section}.batch_size", section.batch_size, world_size)]
    if section.step_decoding is not None:
        notes.append("the step decoder's own weights and operations are not counted")
    if not settings.model.train_vision and _features(sizes, rows, config, name) > FEATURE_LIMIT_BYTES:
        notes.append(f"image features exceed {FEATURE_LIMIT_BYTES >> 30} GiB: images are encoded in every step")
        encoded = encoding(sizes, sizes.merged_patches * section.batch_size * rows.mean("image"))
        operations = [(model, executed + encoded) for model, executed in operations]
    seconds = None
    if rates is not None:
        seconds = optimizer_seconds(settings, sizes, section.optimizer, trained, config, rates)
        for one, (_, executed) in zip(mean, operations, strict=True):
            rate = rates.rolling if one.rolls_out else rates.training
            busiest, micro_batches = executed * local_batch / section.batch_size, math.ceil(local_batch / at_once)
            seconds += one.per_step * training_seconds(
                sizes, one.batch, config, busiest, rate, rates, micro_batches=micro_batches
            )
    return StageWork(
        name=name,
        steps=steps,
        at_once=at_once,
        tokens=sum(one.per_step * one.batch.tokens for one in mean),
        model_flops=model_flops,
        flops=sum(one.per_step * executed for one, (_, executed) in zip(mean, operations, strict=True)),
        seconds=seconds,
        moments=tuple(moments),
        main=resident.main,
        notes=tuple(note for note in notes if note),
    )


def _visual_codes(settings: Settings, sizes: ModelSizes, rows: RecipeRows, rates: Rates | None) -> StageWork:
    """One process encodes the auxiliary images, one example after the other; those of the codebook twice."""
    config = compute_config(settings.model, False)
    tokens = rows.mean("auxiliary") * rows.mean("frames")
    longest = sizes.merged_patches * rows.max("auxiliary") * rows.max("frames")
    flops = encoding(sizes, sizes.merged_patches * tokens)
    weights = sizes.total * config.dtype_bytes
    return StageWork(
        name="visual-codes",
        steps=rows.train + min(rows.train, settings.visual_tokens.codebook_examples),
        at_once=1,
        tokens=tokens,
        model_flops=flops,
        flops=flops,
        seconds=None if rates is None else flops / (rates.training * 1e12),
        moments=(image_encoding_moment(weights, sizes, config.dtype_bytes, longest),),
        main=0,
        notes=("one process; a step is one example",),
    )


def _peaks(of_batches: Iterable[Sequence[Moment]]) -> list[Moment]:
    """Return the largest moment of each name, in the order of the names."""
    largest: dict[str, Moment] = {}
    for moment in (moment for moments in of_batches for moment in moments):
        known = largest.setdefault(moment.name, moment)
        largest[moment.name] = moment if moment.total > known.total else known
    return list(largest.values())


def _evaluation(
    settings: Settings, sizes: ModelSizes, rows: RecipeRows, rates: Rates | None, methods: int
) -> StageWork:
    evaluation, world_size = settings.evaluation, settings.runtime.world_size
    config = compute_config(settings.model, False)
    longest, shape = Shape.longest(rows, settings), Shape.mean(rows, settings)
    columns = columns_of(settings, evaluation.max_new_tokens)
    weights = {"weights": sizes.total * config.dtype_bytes}
    sampling = sampling_moment(
        weights,
        sizes,
        config.dtype_bytes,
        prompts=evaluation.batch_size,
        samples=evaluation.samples,
        prompt=longest.prompt,
        steps=columns,
    )
    encoding_images = image_encoding_moment(
        weights["weights"], sizes, config.dtype_bytes, evaluation.batch_size * sizes.merged_patches * longest.image
    )
    batches = math.ceil(rows.test / evaluation.batch_size)
    answered = min(evaluation.max_new_tokens, 2 * (shape.before + shape.after) + 2)
    tokens = evaluation.batch_size * (shape.prompt + evaluation.samples * answered)
    flops = forward(sizes, tokens, shape.prompt, evaluation.batch_size * answered)
    flops += encoding(sizes, sizes.merged_patches * evaluation.batch_size * shape.image)
    seconds = None
    if rates is not None:
        decoded_rows = evaluation.batch_size * evaluation.samples
        seconds = flops / (rates.training * 1e12) + (answered + settings.latent.num_latents) * column_seconds(
            sizes, decoded_rows, shape.prompt + answered, config.dtype_bytes, rates
        )
    return StageWork(
        name="evaluation",
        steps=methods * math.ceil(batches / world_size),
        at_once=evaluation.batch_size * evaluation.samples,
        tokens=float(tokens),
        model_flops=flops,
        flops=flops,
        seconds=seconds,
        moments=(sampling, encoding_images),
        main=0,
        notes=(f"of {methods} methods on {rows.test} problems; steps are batches of a process",),
    )


def _warmup(settings: Settings, sizes: ModelSizes, rates: Rates | None) -> StageWork:
    """All weights are trained, the vision tower too; an image has one token for each cell."""
    warmup, world_size = settings.model.warmup, settings.runtime.world_size
    model = settings.model.model_copy(update={"lora": None, "train_vision": True})
    config, resident = compute_config(model, False), resident_memory(sizes, model, settings.runtime, warmup.optimizer)
    local_batch = math.ceil(warmup.batch_size / world_size)
    largest = exercises(sizes, max(warmup.levels), local_batch)
    model_flops, executed_flops = training(
        sizes, exercises(sizes, round(sum(warmup.levels) / len(warmup.levels)), warmup.batch_size), config
    )
    seconds = None
    if rates is not None:
        busiest = executed_flops * local_batch / warmup.batch_size
        seconds = training_seconds(sizes, largest, config, busiest, rates.training, rates, micro_batches=1)
        trained = sizes.trained(settings.model)
        seconds += optimizer_seconds(settings, sizes, warmup.optimizer, trained, config, rates)
    return StageWork(
        name="base",
        steps=warmup.steps,
        at_once=local_batch,
        tokens=float(exercises(sizes, max(warmup.levels), warmup.batch_size).tokens),
        model_flops=model_flops,
        flops=executed_flops,
        seconds=seconds,
        moments=tuple(training_moments(resident, Work(sizes=sizes, batch=largest, config=config))),
        main=resident.main,
    )


def _features(sizes: ModelSizes, rows: RecipeRows, config: ComputeConfig, name: str) -> float:
    """Return the bytes of the image features of all examples."""
    images = rows.mean("image") + (rows.mean("auxiliary") if sees_auxiliary(name) else 0.0)
    return rows.train * images * sizes.text.hidden * config.dtype_bytes
