"""Memory that stays allocated during a whole stage: weights, gradients, optimizer state, sharded by ZeRO or offloaded.

It follows training/engine/ (plain) and DeepSpeed 0.19.8. Bytes of one device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mirage_core.config import ModelSettings, RuntimeSettings
from mirage_core.planning.activations import FLOAT
from mirage_core.planning.sizes import ModelSizes

LARGEST_BUCKET = 500_000_000
"""Elements DeepSpeed reduces at once (training/engine/deepspeed.py)."""
GATHERED = 1_000_000_000
"""The most parameters that ZeRO-3 gathers at a time (its stage3_max_live_parameters)."""
BYTES = {"float32": 4, "bfloat16": 2}
MOMENTS = {"adamw": 2 * FLOAT, "adamw_8bit": 2 + 2 * FLOAT / 256, "muon": 2 * FLOAT}
"""Bytes of Adam's two moments a parameter; in 8 bits a float32 scale for every 256 of them.

Muon has at most as many: its matrices have one moment.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentMemory:
    """``optimizer``: moments and float32 weights; ``buffers``: buckets for reducing and gathering; ``stepping``: extra
    memory of an optimizer step; ``main``: what is offloaded to main memory; ``sums``: float32 sums of the gradients of
    earlier micro-batches, where these are kept beside the gradients."""

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    stepping: int
    main: int
    sums: int = 0


def resident_memory(
    sizes: ModelSizes, model: ModelSettings, runtime: RuntimeSettings, optimizer: str, trained: int | None = None
) -> ResidentMemory:
    """Return the resident memory of one of ``runtime.world_size`` training processes, one device each.

    ``trained``: the parameters that are trained; None: those that the settings of the model say.
    """
    trained, b = sizes.trained(model) if trained is None else trained, BYTES[model.dtype]
    if runtime.engine == "plain":
        return _plain(sizes.total, trained, b, MOMENTS[optimizer])
    return _deepspeed(sizes.total, trained, b, MOMENTS[optimizer], runtime)


def _plain(total: int, trained: int, b: int, moments: float) -> ResidentMemory:
    """Every process holds everything; bfloat16 weights have float32 master copies.

    A step first flattens all gradients to float32 (bfloat16 ones by a copy), which takes more than AdamW after it.
    """
    masters = 0 if b == FLOAT else FLOAT * trained
    return ResidentMemory(
        weights=b * total,
        gradients=b * trained,
        optimizer=masters + math.ceil(moments * trained),
        buffers=0,
        stepping=FLOAT * trained * (1 if b == FLOAT else 2),
        main=0,
        sums=0 if b == FLOAT else FLOAT * trained,
    )


def _deepspeed(total: int, trained: int, b: int, moments: float, runtime: RuntimeSettings) -> ResidentMemory:
    """ZeRO 1 shards the optimizer state, 2 also gradients, 3 also weights; shards and gradients are float32."""
    stage, world = runtime.zero_stage, runtime.world_size
    # An AdamW that is not fused computes every update in a tensor of its own.
    update = 0 if runtime.fused_optimizer else FLOAT
    if stage == 0:
        return ResidentMemory(
            weights=b * total,
            gradients=b * trained,
            optimizer=math.ceil(moments * trained),
            buffers=0,
            stepping=update * trained,
            main=0,
        )
    shard = math.ceil(trained / world)
    state, stepping = math.ceil((FLOAT + moments) * shard), (FLOAT + update) * shard
    weights = b * total if stage < 3 else math.ceil(b * total / world)
    buffers = b * min(LARGEST_BUCKET, trained)
    if stage == 3:
        buffers += b * min(GATHERED, total)
    main = 0
    gradients = FLOAT * (trained if stage == 1 else shard)
    if runtime.offload_optimizer:
        main, state, stepping = state + stepping, 0, 0
        gradients = gradients if stage == 1 else 0  # moved to main memory, one bucket at a time
    if stage == 3 and runtime.offload_parameters:
        main, weights = main + weights, 0
    return ResidentMemory(
        weights=weights,
        gradients=gradients,
        optimizer=state,
        buffers=buffers,
        stepping=stepping,
        main=main,
    )
