"""Floating-point operations of a step, and the seconds they take at given rates.

A multiply-add counts as two operations.
"""

from __future__ import annotations

from dataclasses import dataclass

from mirage_core.planning.activations import Batch, ComputeConfig
from mirage_core.planning.sizes import ModelSizes
from mirage_core.training.engine.muon import ITERATIONS

STEP_BYTES = 36
"""Bytes that an optimizer step reads and writes for a parameter: float32 gradient, weight, two moments, and copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The speed of a device: the first is stated by the user, the others are assumptions; or all are measured.

    ``training``, ``rolling``: sustained TFLOP/s of one pass over all tokens, and of the several passes of stage 2.
    ``memory``: GB/s of the device's memory (an A100 or H100 has 2,000 to 3,350). ``main``: GB/s to main memory, for
    offloading. ``link``: GB/s between devices. ``launch_ms``: the shortest time of a layer's forward pass, since a
    stock layer launches some forty kernels (1.3 ms on a machine with an H100, docs/real-size.md).
    """

    training: float
    rolling: float
    memory: float = 2000.0
    main: float = 25.0
    link: float = 100.0
    launch_ms: float = 1.3
    measured: bool = False


def forward(sizes: ModelSizes, tokens: int, context: float, labelled: int) -> float:
    """Return the operations of a forward pass over ``tokens`` with ``context`` others each; ``labelled`` get logits."""
    matrices = 2.0 * sizes.parameters["layers"] * tokens
    attention = 4.0 * sizes.text.hidden * sizes.text.layers * tokens * context
    return matrices + attention + 2.0 * sizes.table * labelled


def encoding(sizes: ModelSizes, patches: float) -> float:
    """Return the operations of the vision tower over ``patches``."""
    return 2.0 * sizes.parameters["vision"] * patches


def training(sizes: ModelSizes, batch: Batch, config: ComputeConfig) -> tuple[float, float]:
    """Return the operations of forward and backward pass: of the model alone, and with recomputation.

    The backward pass costs two forward passes; one, where the model's own weights have no gradients.
    """
    columns = batch.prompt + sum(batch.passes) if batch.prompts else sum(batch.passes)
    forward_flops = forward(sizes, batch.tokens, columns / 2, batch.labelled)
    vision = 3 * encoding(sizes, (batch.prompts or batch.rows) * batch.patches)
    model_flops = forward_flops * (2 if config.keeps_weights else 3) + vision
    recomputed = forward_flops - 2.0 * sizes.table * batch.labelled if config.checkpointing else 0.0
    return model_flops, model_flops + recomputed


def training_seconds(
    sizes: ModelSizes,
    batch: Batch,
    config: ComputeConfig,
    operations: float,
    rate: float,
    rates: Rates,
    *,
    micro_batches: int,
) -> float:
    """Return the seconds of ``operations`` that a process computes in ``micro_batches`` like the batch, at a rate.

    A pass takes at least the launches of its layers: forward, twice in backward, and once more with checkpointing;
    a measured rate includes them.
    """
    if rates.measured:
        return operations / (rate * 1e12)
    launches = sizes.text.layers * rates.launch_ms / 1e3 * (4 if config.checkpointing else 3)
    prompts = [batch.prompts * batch.prompt] if batch.prompts else []
    passes = [*prompts, *(batch.rows * columns for columns in batch.passes)]
    pass_seconds = [operations / micro_batches * tokens / sum(passes) / (rate * 1e12) for tokens in passes]
    return micro_batches * sum(max(seconds, launches) for seconds in pass_seconds)


def column_seconds(sizes: ModelSizes, rows: int, context: float, dtype_bytes: int, rates: Rates) -> float:
    """Return the seconds of one decoding step: compute, reading weights and cache once, or launches, the longest."""
    compute = forward(sizes, rows, context, rows) / (rates.training * 1e12)
    cache = 2.0 * dtype_bytes * sizes.text.kv_hidden * sizes.text.layers * rows * context
    reading = (dtype_bytes * sizes.language + cache) / (rates.memory * 1e9)
    return max(compute, reading, sizes.text.layers * rates.launch_ms / 1e3)


def sampling_seconds(
    sizes: ModelSizes, *, prompts: int, samples: int, prompt: int, columns: int, dtype_bytes: int, rates: Rates
) -> float:
    """Return the seconds of sampling ``samples`` answers of ``columns`` columns to each of ``prompts`` prompts."""
    prefill = forward(sizes, prompts * prompt, prompt / 2, prompts) / (rates.training * 1e12)
    return prefill + columns * column_seconds(sizes, prompts * samples, prompt + columns / 2, dtype_bytes, rates)


def orthogonalising(sizes: ModelSizes) -> float:
    """Return the operations by which Muon orthogonalises the momentum of all layers (training/engine/muon.py)."""
    sides = [(min(shape), max(shape)) for shape in sizes.linear.values()]
    return ITERATIONS * sizes.text.layers * sum(4.0 * short**2 * long + 2.0 * short**3 for short, long in sides)


def step_seconds(
    trained: int, world_size: int, *, sharded: bool, offloaded: bool, dtype_bytes: int, rates: Rates
) -> float:
    """Return the seconds of an optimizer step, and of reducing the gradients before it."""
    local = trained / world_size if sharded else trained
    stepping = STEP_BYTES * local / ((rates.main if offloaded else rates.memory) * 1e9)
    reducing = 2.0 * dtype_bytes * trained / (rates.link * 1e9) if world_size > 1 else 0.0
    return stepping + reducing
