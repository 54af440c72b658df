"""The stages of a recipe as work: what a process computes at once, the moments of its memory, seconds a step.

Rows are taken as long as the longest one sampled for memory, and as long as the mean for tokens and time; answers as
long as they may become. Legend: k latents a span.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mirage_core.config import GRPOSettings, ModelSettings, RuntimeSettings, Settings, TrainSettings
from mirage_core.model.loading import FROM_SCRATCH
from mirage_core.planning.activations import Form
from mirage_core.planning.batch_shapes import Shape, exercises
from mirage_core.planning.flops import (
    Rates,
    column_seconds,
    drawing_seconds,
    encoding,
    forward,
    step_seconds,
    training,
    training_seconds,
)
from mirage_core.planning.memory import (
    Moment,
    Work,
    drawing_moment,
    pictures_moment,
    reference_moment,
    training_moments,
)
from mirage_core.planning.resident_memory import BYTES, Held, held
from mirage_core.planning.sizes import ModelSizes
from mirage_core.planning.token_counts import RecipeRows
from mirage_core.training.data.feature_cache import CHUNK, FEATURE_LIMIT_BYTES
from mirage_core.training.data.sampler import steps_of

_SECTIONS = {"direct-sft": "direct_sft", "auxiliary-input": "direct_sft", "without-stage-1": "relaxation"}
"""The section a stage reads, where it is not called like the stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWork:
    """What a stage does: ``at_once``, rows a process computes at once; ``tokens``, ``flops``: of a step of all
    processes; ``seconds`` of a step (None without rates); ``main``: bytes in main memory."""

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


def stages_of(settings: Settings, sizes: ModelSizes, rows: RecipeRows, rates: Rates | None) -> list[StageWork]:
    """Every stage that runs a model, in the order of the road."""
    return list(_stages(settings, sizes, rows, rates))


def _stages(settings: Settings, sizes: ModelSizes, rows: RecipeRows, rates: Rates | None) -> Iterator[StageWork]:
    wanted = {method for method in settings.evaluation.methods if settings.grpo.enabled or not method.endswith("grpo")}
    if settings.model.source == FROM_SCRATCH and settings.model.warmup.steps:
        yield _warmup(settings, sizes, rates)
    for name, section, method in (
        ("direct-sft", settings.direct_sft, {"direct-sft", "direct-sft-grpo"}),
        ("auxiliary-input", settings.direct_sft, {"auxiliary-input"}),
        ("capimagine", settings.capimagine, {"capimagine", "capimagine-grpo"}),
        ("grounding", settings.grounding, {"stage-1", "stage-2", "grpo"}),
        ("without-stage-1", settings.relaxation, {"without-stage-1", "without-stage-1-grpo"}),
        ("relaxation", settings.relaxation, {"stage-2", "grpo"}),
    ):
        if wanted & method:
            yield _supervised(settings, sizes, rows, rates, name, section)
    for name in ("direct-sft-grpo", "capimagine-grpo", "without-stage-1-grpo", "grpo"):
        if name in wanted:
            # Answers are taken to hold a span also where the model has no latents: at most k tokens too many.
            yield replace(_grpo(settings, sizes, rows, rates), name=name)
    yield _evaluation(settings, sizes, rows, rates, len(wanted))


def _supervised(
    settings: Settings, sizes: ModelSizes, rows: RecipeRows, rates: Rates | None, name: str, section: TrainSettings
) -> StageWork:
    runtime, world = settings.runtime, settings.runtime.world_size
    mine = math.ceil(section.batch_size / world)
    at_once = min(section.micro_batch_size or mine, mine)
    form = form_of(settings.model, section.gradient_checkpointing)
    held_ = held(sizes, settings.model, runtime, section.optimizer)
    largest = Shape.most(rows, settings).batch(name, at_once, section.batch_by != "group")
    shape = Shape.mean(rows, settings)
    mean = shape.batch(name, section.batch_size, padded=False)
    if settings.model.train_vision:
        largest = replace(largest, patches=sizes.merged_patches * rows.most("image"))
        mean = replace(mean, patches=round(sizes.merged_patches * rows.mean("image")))
    own, executed = training(sizes, mean, form)
    work = Work(sizes=sizes, batch=largest, form=form, accumulating=at_once < mine)
    moments = [*training_moments(held_, work), _pictures(sizes, rows, form)]
    notes = [_idle(f"{_SECTIONS.get(name, name)}.batch_size", section.batch_size, world)]
    if not settings.model.train_vision and _features(sizes, rows, form, name) > FEATURE_LIMIT_BYTES:
        notes.append(f"image features exceed {FEATURE_LIMIT_BYTES >> 30} GiB: pictures are encoded at every step")
        executed += encoding(sizes, sizes.merged_patches * section.batch_size * rows.mean("image"))
    seconds = None
    if rates is not None:
        rate = rates.rolling if shape.rolls_out(name) else rates.training
        busiest, portions = executed * mine / section.batch_size, math.ceil(mine / at_once)
        seconds = training_seconds(sizes, mean, form, busiest, rate, rates, portions=portions)
        seconds += _stepping(settings, sizes, form, rates)
    return StageWork(
        name=name,
        steps=steps_of(section.steps, section.epochs, rows.train, section.batch_size),
        at_once=at_once,
        tokens=mean.tokens,
        model_flops=own,
        flops=executed,
        seconds=seconds,
        moments=tuple(moments),
        main=held_.main,
        notes=tuple(note for note in notes if note),
    )


@dataclass(frozen=True, slots=True)
class _Portions:
    """What one process has of a GRPO step: prompts, answers, and how many of these are learned and drawn at once."""

    prompts: int
    answers: int
    learned: int
    drawn: int


def _portions(settings: Settings) -> _Portions:
    chosen, runtime = settings.grpo, settings.runtime
    prompts = math.ceil(chosen.prompts_per_step / runtime.world_size)
    answers = prompts * chosen.group_size
    learned = min(chosen.micro_batch_size or answers, answers)
    drawn = min(runtime.generation_batch_size or answers, answers)
    return _Portions(prompts, answers, learned, drawn)


def _grpo(settings: Settings, sizes: ModelSizes, rows: RecipeRows, rates: Rates | None) -> StageWork:
    chosen, world = settings.grpo, settings.runtime.world_size
    form, mine = form_of(settings.model, chosen.gradient_checkpointing), _portions(settings)
    held_ = held(sizes, settings.model, settings.runtime, chosen.optimizer)
    copy = sizes.total * form.number if chosen.kl_weight > 0 and settings.model.lora is None else 0
    shape = Shape.mean(rows, settings)
    whole = shape.answers(mine.prompts, mine.answers, _expected(shape, chosen))
    own, executed = training(sizes, whole, form)
    reference = forward(sizes, whole.tokens, shape.prompt / 2, whole.labelled) if chosen.kl_weight > 0 else 0.0
    begun = mine.prompts * shape.prompt + mine.answers * sum(whole.passes)
    drawing = forward(sizes, begun, shape.prompt, whole.labelled)
    seconds = None
    if rates is not None:
        portions, rounds = math.ceil(mine.answers / mine.learned), 1 / chosen.updates_per_rollout
        seconds = (
            training_seconds(sizes, whole, form, executed, rates.rolling, rates, portions=portions)
            + reference * rounds / (rates.rolling * 1e12)
            + rounds * _drawing(settings, sizes, shape, form, rates, mine.answers, mine.drawn)
            + _stepping(settings, sizes, form, rates)
        )
    notes = [_idle("grpo.prompts_per_step", chosen.prompts_per_step, world)]
    notes.append(f"answers are taken to have {_expected(shape, chosen)} tokens; for memory {chosen.max_new_tokens}")
    return StageWork(
        name="grpo",
        steps=chosen.steps,
        at_once=mine.learned,
        tokens=float(whole.tokens * world),
        model_flops=own * world,
        flops=(executed + reference + drawing) * world,
        seconds=seconds,
        moments=_grpo_moments(settings, sizes, Shape.most(rows, settings), held_, copy),
        main=held_.main + (copy if settings.runtime.offload_reference else 0),
        notes=tuple(note for note in notes if note),
    )


def _grpo_moments(settings: Settings, sizes: ModelSizes, longest: Shape, held_: Held, copy: int) -> tuple[Moment, ...]:
    """What is on the device while GRPO learns, draws answers, asks the reference (``copy``: its bytes)."""
    chosen, runtime, mine = settings.grpo, settings.runtime, _portions(settings)
    form = form_of(settings.model, chosen.gradient_checkpointing)
    batch = longest.answers(math.ceil(mine.learned / chosen.group_size), mine.learned, chosen.max_new_tokens)
    work = Work(sizes=sizes, batch=batch, form=form, accumulating=mine.learned < mine.answers, policy=True)
    resident, waiting = _resident(held_, sizes, form, runtime), 0 if runtime.offload_reference else copy
    drawing = drawing_moment(
        resident,
        sizes,
        form.number,
        prompts=math.ceil(mine.drawn / chosen.group_size),
        samples=min(mine.drawn, chosen.group_size),
        prompt=longest.prompt,
        steps=_columns(settings, chosen.max_new_tokens),
    )
    moments = [_beside(moment, waiting) for moment in (*training_moments(held_, work), drawing)]
    if chosen.kl_weight > 0:
        moments.append(_beside(reference_moment(resident, sizes, batch, form.number), copy))
    return tuple(moments)


def _expected(shape: Shape, chosen: GRPOSettings) -> int:
    """Tokens of an answer: as the examples have, half more, but no more than allowed."""
    return min(chosen.max_new_tokens, round(1.5 * (shape.before + shape.after)) + 2)


def _drawing(
    settings: Settings, sizes: ModelSizes, shape: Shape, form: Form, rates: Rates, answers: int, at_once: int
) -> float:
    """Seconds of drawing a step's answers of one process, portion after portion."""
    chosen = settings.grpo
    # The longest answer of a portion decides how long it takes.
    columns = _columns(settings, min(chosen.max_new_tokens, 2 * _expected(shape, chosen)))
    samples = min(at_once, chosen.group_size)
    portion = drawing_seconds(
        sizes,
        prompts=math.ceil(at_once / samples),
        samples=samples,
        prompt=shape.prompt,
        columns=columns,
        number=form.number,
        rates=rates,
    )
    return math.ceil(answers / at_once) * portion


def _columns(settings: Settings, tokens: int) -> int:
    """Columns of an answer: its text and one span for each that it may begin."""
    latent = settings.latent
    span = latent.max_latents if latent.end == "free" else latent.num_latents
    return tokens + (latent.max_spans + 1) * span


def _resident(held_: Held, sizes: ModelSizes, form: Form, runtime: RuntimeSettings) -> dict[str, int]:
    """What lies on a device between steps; ZeRO-3's weights are made whole to draw answers (training/whole.py)."""
    sharded = runtime.engine == "deepspeed" and runtime.zero_stage == 3
    whole = sizes.total * form.number if sharded else 0
    return {"weights": held_.weights + whole, "optimizer": held_.optimizer, "buffers": 0 if sharded else held_.buffers}


def _beside(moment: Moment, reference: int) -> Moment:
    """A moment with the frozen copy's weights."""
    return replace(moment, parts={**moment.parts, "reference": reference})


def _evaluation(
    settings: Settings, sizes: ModelSizes, rows: RecipeRows, rates: Rates | None, methods: int
) -> StageWork:
    chosen, world = settings.evaluation, settings.runtime.world_size
    form, longest, shape = form_of(settings.model, False), Shape.most(rows, settings), Shape.mean(rows, settings)
    columns = _columns(settings, chosen.max_new_tokens)
    weights = {"weights": sizes.total * form.number}
    drawing = drawing_moment(
        weights,
        sizes,
        form.number,
        prompts=chosen.batch_size,
        samples=chosen.samples,
        prompt=longest.prompt,
        steps=columns,
    )
    pictures = pictures_moment(
        weights["weights"], sizes, form.number, chosen.batch_size * sizes.merged_patches * longest.image
    )
    batches = math.ceil(rows.test / chosen.batch_size)
    answered = min(chosen.max_new_tokens, 2 * (shape.before + shape.after) + 2)
    tokens = chosen.batch_size * (shape.prompt + chosen.samples * answered)
    flops = forward(sizes, tokens, shape.prompt, chosen.batch_size * answered)
    flops += encoding(sizes, sizes.merged_patches * chosen.batch_size * shape.image)
    seconds = None
    if rates is not None:
        rows_ = chosen.batch_size * chosen.samples
        seconds = flops / (rates.training * 1e12) + (answered + settings.latent.num_latents) * column_seconds(
            sizes, rows_, shape.prompt + answered, form.number, rates
        )
    return StageWork(
        name="evaluation",
        steps=methods * math.ceil(batches / world),
        at_once=chosen.batch_size * chosen.samples,
        tokens=float(tokens),
        model_flops=flops,
        flops=flops,
        seconds=seconds,
        moments=(drawing, pictures),
        main=0,
        notes=(f"of {methods} methods on {rows.test} problems; steps are batches of a process",),
    )


def _warmup(settings: Settings, sizes: ModelSizes, rates: Rates | None) -> StageWork:
    """Every weight learns, the vision tower's too; pictures have one token a cell."""
    chosen, world = settings.model.warmup, settings.runtime.world_size
    model = settings.model.model_copy(update={"lora": None, "train_vision": True})
    form, held_ = form_of(model, False), held(sizes, model, settings.runtime, "adamw")
    mine = math.ceil(chosen.batch_size / world)
    largest = exercises(sizes, max(chosen.levels), mine)
    own, executed = training(
        sizes, exercises(sizes, round(sum(chosen.levels) / len(chosen.levels)), chosen.batch_size), form
    )
    seconds = None
    if rates is not None:
        busiest = executed * mine / chosen.batch_size
        seconds = training_seconds(sizes, largest, form, busiest, rates.training, rates, portions=1)
        seconds += _stepping(settings, sizes, form, rates)
    return StageWork(
        name="base",
        steps=chosen.steps,
        at_once=mine,
        tokens=float(exercises(sizes, max(chosen.levels), chosen.batch_size).tokens),
        model_flops=own,
        flops=executed,
        seconds=seconds,
        moments=tuple(training_moments(held_, Work(sizes=sizes, batch=largest, form=form))),
        main=held_.main,
    )


def form_of(model: ModelSettings, checkpointing: bool) -> Form:
    """How a model of these settings computes."""
    ranks = model.lora.rank * len(model.lora.target_modules) if model.lora else 0
    return Form(number=BYTES[model.dtype], checkpointing=checkpointing, adapters=ranks)


def _pictures(sizes: ModelSizes, rows: RecipeRows, form: Form) -> Moment:
    """Pictures are encoded before training, so many examples at a time, when only weights are there."""
    widest = max(rows.most("image"), rows.most("auxiliary"))
    return pictures_moment(sizes.total * form.number, sizes, form.number, CHUNK * sizes.merged_patches * widest)


def _features(sizes: ModelSizes, rows: RecipeRows, form: Form, name: str) -> float:
    """Bytes of the image features of all examples."""
    images = rows.mean("image") + (rows.mean("auxiliary") if name in ("grounding", "auxiliary-input") else 0.0)
    return rows.train * images * sizes.text.hidden * form.number


def _stepping(settings: Settings, sizes: ModelSizes, form: Form, rates: Rates) -> float:
    runtime = settings.runtime
    deep = runtime.engine == "deepspeed"
    return step_seconds(
        sizes.trained(settings.model),
        runtime.world_size,
        shared=deep and runtime.zero_stage > 0,
        offloaded=deep and runtime.offload_optimizer,
        number=form.number,
        rates=rates,
    )


def _idle(setting: str, batch: int, world: int) -> str:
    """Said where a step has less to do than there are processes."""
    return f"{setting} is {batch}: {world - batch} of {world} processes have nothing to do" if batch < world else ""
