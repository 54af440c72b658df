"""What a device holds all through a stage: weights, gradients, the optimizer's state; shared out by ZeRO, or offloaded.

As training/engine.py (plain) and DeepSpeed 0.19.8 keep them. Bytes of one device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mirage_core.config import ModelSettings, RuntimeSettings
from mirage_core.planning.activations import FLOAT
from mirage_core.planning.sizes import ModelSizes

LARGEST_BUCKET = 500_000_000
"""Elements DeepSpeed reduces at once (training/deepspeed_engine.py)."""
GATHERED = 1_000_000_000
"""Parameters that ZeRO-3 has whole at a time at most (its stage3_max_live_parameters)."""
BYTES = {"float32": 4, "bfloat16": 2}
MOMENTS = {"adamw": 2 * FLOAT, "adamw_8bit": 2 + 2 * FLOAT / 256}
"""Bytes of Adam's two moments a parameter; in 8 bits a float32 scale for every 256 of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """``weights``, ``gradients``, ``optimizer`` (moments and float32 weights), ``buffers`` (what is reduced or gathered
    at a time); ``stepping``: what an optimizer step needs beside them; ``main``: what lies in main memory instead."""

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    stepping: int
    main: int


def held(sizes: ModelSizes, model: ModelSettings, runtime: RuntimeSettings, optimizer: str) -> Held:
    """What training holds in one of ``runtime.world_size`` processes, each with a device of its own."""
    trained, b = sizes.trained(model), BYTES[model.dtype]
    if runtime.engine == "plain":
        return _plain(sizes.total, trained, b, MOMENTS[optimizer])
    return _deepspeed(sizes.total, trained, b, MOMENTS[optimizer], runtime)


def _plain(total: int, trained: int, b: int, moments: float) -> Held:
    """Everything in every process; bfloat16 weights have float32 masters.

    A step first lays all gradients end to end in float32 (from bfloat16 in copies): more than AdamW takes after it.
    """
    masters = 0 if b == FLOAT else FLOAT * trained
    return Held(
        weights=b * total,
        gradients=b * trained,
        optimizer=masters + math.ceil(moments * trained),
        buffers=0,
        stepping=FLOAT * trained * (1 if b == FLOAT else 2),
        main=0,
    )


def _deepspeed(total: int, trained: int, b: int, moments: float, runtime: RuntimeSettings) -> Held:
    """ZeRO 1 shares the optimizer's state out, 2 also the gradients, 3 also the weights; its shards are float32."""
    stage, world = runtime.zero_stage, runtime.world_size
    # Without one kernel for all, AdamW computes every tensor's step beside it.
    beside = 0 if runtime.fused_optimizer else FLOAT
    if stage == 0:
        return Held(
            weights=b * total,
            gradients=b * trained,
            optimizer=math.ceil(moments * trained),
            buffers=0,
            stepping=beside * trained,
            main=0,
        )
    shard = math.ceil(trained / world)
    state, stepping = math.ceil((FLOAT + moments) * shard), (FLOAT + beside) * shard
    weights = b * total if stage < 3 else math.ceil(b * total / world)
    buffers = b * min(LARGEST_BUCKET, trained)
    if stage == 3:
        buffers += b * min(GATHERED, total)
    main = 0
    gradients = b * trained if stage == 1 else b * shard
    if runtime.offload_optimizer:
        main, state, stepping = state + stepping, 0, 0
        gradients = gradients if stage == 1 else 0  # they follow to main memory, a bucket at a time
    if stage == 3 and runtime.offload_parameters:
        main, weights = main + weights, 0
    return Held(
        weights=weights,
        gradients=gradients,
        optimizer=state,
        buffers=buffers,
        stepping=stepping,
        main=main,
    )
