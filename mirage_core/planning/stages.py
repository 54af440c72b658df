"""The work of every stage of a recipe: its micro-batch, the moments of its memory, the seconds of a step.

Memory is planned for the longest sampled row and the longest allowed answer, tokens and time for the mean row.
Legend: k latents a span.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from mirage_core.config import (
    GRPOSettings,
    ModelSettings,
    RuntimeSettings,
    Settings,
    TrainSettings,
    VisualTokenSettings,
)
from mirage_core.methods import TRAIN_STAGES, enabled_methods, get_method
from mirage_core.model.loading import FROM_SCRATCH
from mirage_core.planning.activations import ComputeConfig
from mirage_core.planning.batch_shapes import Shape, exercises, sees_auxiliary
from mirage_core.planning.flops import (
    Rates,
    column_seconds,
    encoding,
    forward,
    sampling_seconds,
    step_seconds,
    training,
    training_seconds,
)
from mirage_core.planning.memory import (
    Moment,
    Work,
    image_encoding_moment,
    reference_moment,
    sampling_moment,
    training_moments,
)
from mirage_core.planning.resident_memory import BYTES, ResidentMemory, resident_memory
from mirage_core.planning.sizes import ModelSizes
from mirage_core.planning.stage_batches import stage_batches
from mirage_core.planning.token_counts import RecipeRows
from mirage_core.training.data.feature_cache import CHUNK, FEATURE_LIMIT_BYTES
from mirage_core.training.data.sampler import steps_of
from mirage_core.training.sft.pooler import pooler_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWork:
    """The work of a stage. ``at_once``: rows of a micro-batch of one process; ``tokens``, ``flops``: of one step of all
    processes; ``seconds``: of one step (None without rates); ``main``: bytes in main memory."""

    name: str
    steps: int
    at_once: int
    tokens: float
    model_flops: float
    flops: float
    seconds: float | None
    moments: tuple[Moment, ...]
    main: int
    notes: tuple[str, ...] = ()


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
        section = settings.training(stage.program.name)
        if isinstance(section, GRPOSettings):
            # A model without latents is planned with one span an answer too: at most k tokens too many.
            yield replace(_grpo(settings, sizes, rows, rates), name=name)
        else:
            yield _supervised(settings, sizes, rows, rates, name, section)
    yield _evaluation(settings, sizes, rows, rates, len(set(methods)))


def _supervised(
    settings: Settings, sizes: ModelSizes, rows: RecipeRows, rates: Rates | None, name: str, section: TrainSettings
) -> StageWork:
    runtime, world_size = settings.runtime, settings.runtime.world_size
    local_batch = math.ceil(section.batch_size / world_size)
    at_once = min(section.micro_batch_size or local_batch, local_batch)
    config = compute_config(settings.model, section.gradient_checkpointing)
    new_tokens = section.codebook_size + 2 if isinstance(section, VisualTokenSettings) else 0
    sizes = sizes.with_tokens(new_tokens)
    trained = sizes.trained(settings.model, new_tokens)
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
        held=True,
    )
    mean = batches(
        Shape.mean(rows, settings), section.batch_size, padded=False, patches=round(merged * rows.mean("image"))
    )
    works = [Work(sizes=sizes, batch=one.batch, config=config, accumulating=at_once < local_batch) for one in longest]
    moments = [*_peaks(training_moments(resident, work) for work in works), _image_encoding(sizes, rows, config)]
    operations = [training(sizes, one.batch, config) for one in mean]
    model_flops = sum(one.per_step * model for one, (model, _) in zip(mean, operations, strict=True))
    notes = [_idle_note(f"{TRAIN_STAGES[name].program.section}.batch_size", section.batch_size, world_size)]
    if getattr(section, "step_decoder", None) is not None:
        notes.append("the step decoder's own weights and operations are not counted")
    if not settings.model.train_vision and _features(sizes, rows, config, name) > FEATURE_LIMIT_BYTES:
        notes.append(f"image features exceed {FEATURE_LIMIT_BYTES >> 30} GiB: images are encoded in every step")
        encoded = encoding(sizes, sizes.merged_patches * section.batch_size * rows.mean("image"))
        operations = [(model, executed + encoded) for model, executed in operations]
    seconds = None
    if rates is not None:
        seconds = _optimizer_seconds(settings, trained, config, rates)
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


@dataclass(frozen=True, slots=True)
class _LocalRollouts:
    """A GRPO step of one process: prompts, answers, and how many answers are trained on and sampled at once."""

    prompts: int
    answers: int
    learned: int
    drawn: int


def _local_rollouts(settings: Settings) -> _LocalRollouts:
    grpo, runtime = settings.grpo, settings.runtime
    prompts = math.ceil(grpo.prompts_per_step / runtime.world_size)
    answers = prompts * grpo.group_size
    learned = min(grpo.micro_batch_size or answers, answers)
    drawn = min(runtime.generation_batch_size or answers, answers)
    return _LocalRollouts(prompts, answers, learned, drawn)


def _grpo(settings: Settings, sizes: ModelSizes, rows: RecipeRows, rates: Rates | None) -> StageWork:
    grpo, world_size = settings.grpo, settings.runtime.world_size
    config, local = compute_config(settings.model, grpo.gradient_checkpointing), _local_rollouts(settings)
    resident = resident_memory(sizes, settings.model, settings.runtime, grpo.optimizer)
    reference_bytes = sizes.total * config.dtype_bytes if grpo.kl_weight > 0 and settings.model.lora is None else 0
    shape = Shape.mean(rows, settings)
    batch = shape.answers(local.prompts, local.answers, _expected_tokens(shape, grpo))
    model_flops, executed_flops = training(sizes, batch, config)
    reference_flops = forward(sizes, batch.tokens, shape.prompt / 2, batch.labelled) if grpo.kl_weight > 0 else 0.0
    tokens = local.prompts * shape.prompt + local.answers * sum(batch.passes)
    sampling = forward(sizes, tokens, shape.prompt, batch.labelled)
    seconds = None
    if rates is not None:
        micro_batches, rounds = math.ceil(local.answers / local.learned), 1 / grpo.updates_per_rollout
        seconds = (
            training_seconds(sizes, batch, config, executed_flops, rates.rolling, rates, micro_batches=micro_batches)
            + reference_flops * rounds / (rates.rolling * 1e12)
            + rounds * _sampling_time(settings, sizes, shape, config, rates, local.answers, local.drawn)
            + _optimizer_seconds(settings, sizes.trained(settings.model), config, rates)
        )
    notes = [_idle_note("grpo.prompts_per_step", grpo.prompts_per_step, world_size)]
    notes.append(f"answers are taken to have {_expected_tokens(shape, grpo)} tokens; for memory {grpo.max_new_tokens}")
    return StageWork(
        name="grpo",
        steps=grpo.steps,
        at_once=local.learned,
        tokens=float(batch.tokens * world_size),
        model_flops=model_flops * world_size,
        flops=(executed_flops + reference_flops + sampling) * world_size,
        seconds=seconds,
        moments=_grpo_moments(settings, sizes, Shape.longest(rows, settings), resident, reference_bytes),
        main=resident.main + (reference_bytes if settings.runtime.offload_reference else 0),
        notes=tuple(note for note in notes if note),
    )


def _grpo_moments(
    settings: Settings, sizes: ModelSizes, longest: Shape, resident: ResidentMemory, reference_bytes: int
) -> tuple[Moment, ...]:
    """Return the moments of GRPO: a policy update, sampling, the reference model of ``reference_bytes``."""
    grpo, runtime, local = settings.grpo, settings.runtime, _local_rollouts(settings)
    config = compute_config(settings.model, grpo.gradient_checkpointing)
    batch = longest.answers(math.ceil(local.learned / grpo.group_size), local.learned, grpo.max_new_tokens)
    work = Work(sizes=sizes, batch=batch, config=config, accumulating=local.learned < local.answers, policy=True)
    while_sampling = _resident_while_sampling(resident, sizes, config, runtime)
    sampling = sampling_moment(
        while_sampling,
        sizes,
        config.dtype_bytes,
        prompts=math.ceil(local.drawn / grpo.group_size),
        samples=min(local.drawn, grpo.group_size),
        prompt=longest.prompt,
        steps=_columns(settings, grpo.max_new_tokens),
    )
    idle_reference = 0 if runtime.offload_reference else reference_bytes
    moments = [_with_reference(moment, idle_reference) for moment in (*training_moments(resident, work), sampling)]
    if grpo.kl_weight > 0:
        reference = reference_moment(while_sampling, sizes, batch, config.dtype_bytes)
        moments.append(_with_reference(reference, reference_bytes))
    return tuple(moments)


def _expected_tokens(shape: Shape, grpo: GRPOSettings) -> int:
    """Return the expected tokens of an answer: 1.5 times those of an example, at most the allowed ones."""
    return min(grpo.max_new_tokens, round(1.5 * (shape.before + shape.after)) + 2)


def _sampling_time(
    settings: Settings, sizes: ModelSizes, shape: Shape, config: ComputeConfig, rates: Rates, answers: int, at_once: int
) -> float:
    """Return the seconds in which one process samples the answers of a step, batch after batch."""
    grpo = settings.grpo
    # A batch takes as long as its longest answer.
    columns = _columns(settings, min(grpo.max_new_tokens, 2 * _expected_tokens(shape, grpo)))
    samples = min(at_once, grpo.group_size)
    batch_seconds = sampling_seconds(
        sizes,
        prompts=math.ceil(at_once / samples),
        samples=samples,
        prompt=shape.prompt,
        columns=columns,
        dtype_bytes=config.dtype_bytes,
        rates=rates,
    )
    return math.ceil(answers / at_once) * batch_seconds


def _columns(settings: Settings, tokens: int) -> int:
    """Return the columns of an answer: its text, and a span for each that it may begin."""
    latent = settings.latent
    return tokens + (latent.max_spans + 1) * latent.span_limit


def _resident_while_sampling(
    resident: ResidentMemory, sizes: ModelSizes, config: ComputeConfig, runtime: RuntimeSettings
) -> dict[str, int]:
    """Return the resident memory between steps; ZeRO-3 gathers all weights (training/engine/gather_weights.py)."""
    sharded = runtime.engine == "deepspeed" and runtime.zero_stage == 3
    gathered = sizes.total * config.dtype_bytes if sharded else 0
    return {
        "weights": resident.weights + gathered,
        "optimizer": resident.optimizer,
        "buffers": 0 if sharded else resident.buffers,
    }


def _with_reference(moment: Moment, reference: int) -> Moment:
    """Return the moment with the reference model's weights."""
    return replace(moment, parts={**moment.parts, "reference": reference})


def _evaluation(
    settings: Settings, sizes: ModelSizes, rows: RecipeRows, rates: Rates | None, methods: int
) -> StageWork:
    evaluation, world_size = settings.evaluation, settings.runtime.world_size
    config = compute_config(settings.model, False)
    longest, shape = Shape.longest(rows, settings), Shape.mean(rows, settings)
    columns = _columns(settings, evaluation.max_new_tokens)
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
    config, resident = compute_config(model, False), resident_memory(sizes, model, settings.runtime, "adamw")
    local_batch = math.ceil(warmup.batch_size / world_size)
    largest = exercises(sizes, max(warmup.levels), local_batch)
    model_flops, executed_flops = training(
        sizes, exercises(sizes, round(sum(warmup.levels) / len(warmup.levels)), warmup.batch_size), config
    )
    seconds = None
    if rates is not None:
        busiest = executed_flops * local_batch / warmup.batch_size
        seconds = training_seconds(sizes, largest, config, busiest, rates.training, rates, micro_batches=1)
        seconds += _optimizer_seconds(settings, sizes.trained(settings.model), config, rates)
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


def compute_config(model: ModelSettings, checkpointing: bool) -> ComputeConfig:
    """Return how a model with these settings computes."""
    ranks = model.lora.rank * len(model.lora.target_modules) if model.lora else 0
    return ComputeConfig(dtype_bytes=BYTES[model.dtype], checkpointing=checkpointing, adapters=ranks)


def _image_encoding(sizes: ModelSizes, rows: RecipeRows, config: ComputeConfig) -> Moment:
    """Return the encoding of images before training, CHUNK examples at a time, with only the weights resident."""
    patches = CHUNK * sizes.merged_patches * max(rows.max("image"), rows.max("auxiliary"))
    return image_encoding_moment(sizes.total * config.dtype_bytes, sizes, config.dtype_bytes, patches)


def _features(sizes: ModelSizes, rows: RecipeRows, config: ComputeConfig, name: str) -> float:
    """Return the bytes of the image features of all examples."""
    images = rows.mean("image") + (rows.mean("auxiliary") if sees_auxiliary(name) else 0.0)
    return rows.train * images * sizes.text.hidden * config.dtype_bytes


def _optimizer_seconds(settings: Settings, trained: int, config: ComputeConfig, rates: Rates) -> float:
    runtime = settings.runtime
    deep = runtime.engine == "deepspeed"
    return step_seconds(
        trained,
        runtime.world_size,
        sharded=deep and runtime.zero_stage > 0,
        offloaded=deep and runtime.offload_optimizer,
        dtype_bytes=config.dtype_bytes,
        rates=rates,
    )


def _idle_note(setting: str, batch: int, world_size: int) -> str:
    """Return a note where a batch has fewer rows than there are processes, else an empty text."""
    return (
        f"{setting} is {batch}: {world_size - batch} of {world_size} processes have nothing to do"
        if batch < world_size
        else ""
    )
