"""The work of GRPO: sampled answers, and policy updates on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mirage_core.config import (
    GRPOSettings,
    RuntimeSettings,
    Settings,
)
from mirage_core.planning.activations import ComputeConfig
from mirage_core.planning.batch_shapes import Shape
from mirage_core.planning.flops import (
    Rates,
    forward,
    sampling_seconds,
    training,
    training_seconds,
)
from mirage_core.planning.memory import (
    Moment,
    Work,
    reference_moment,
    sampling_moment,
    training_moments,
)
from mirage_core.planning.resident_memory import ResidentMemory, resident_memory
from mirage_core.planning.sizes import ModelSizes
from mirage_core.planning.stage_work import StageWork, compute_config, idle_note, optimizer_seconds
from mirage_core.planning.token_counts import RecipeRows


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


def reinforcement(settings: Settings, sizes: ModelSizes, rows: RecipeRows, rates: Rates | None) -> StageWork:
    """Return the work of a stage of GRPO: its answers, their rewards' updates, and a reference model beside it."""
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
            + optimizer_seconds(settings, sizes, grpo.optimizer, sizes.trained(settings.model), config, rates)
        )
    notes = [idle_note("grpo.prompts_per_step", grpo.prompts_per_step, world_size)]
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
        steps=columns_of(settings, grpo.max_new_tokens),
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
    columns = columns_of(settings, min(grpo.max_new_tokens, 2 * _expected_tokens(shape, grpo)))
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


def columns_of(settings: Settings, tokens: int) -> int:
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
