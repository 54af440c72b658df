"""The memory of a stage on one device, in bytes: the candidates for its peak, and the largest of them.

A moment is a point of a step where memory may peak: the loss, a layer's backward pass, the optimizer step, sampling
answers. Each lists its bytes by what they hold, so that advice can be given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mirage_core.planning.activations import (
    FLOAT,
    Batch,
    ComputeConfig,
    first_pass_tokens,
    gradients_in_flight,
    kv_cache_bytes,
    layer_activations,
    loss_backward,
    loss_forward,
    prompt_activations,
    recomputed_layer,
    saved_activations,
    waiting_gradients,
)
from mirage_core.planning.resident_memory import ResidentMemory
from mirage_core.planning.sizes import ModelSizes

HEADROOM = 64
"""Columns that a KV cache is larger than its content at the start (model/cache.py)."""
SAMPLING_BYTES = 28
"""Bytes of a logit while a token is sampled: scores, probabilities, their float64 sums (generation/sampling.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A point of a step, and its bytes by what they hold."""

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One training step of one process: its model, its micro-batch, and how it computes.

    ``accumulating``: gradients of earlier micro-batches are present; ``policy``: log-probabilities for GRPO.
    """

    sizes: ModelSizes
    batch: Batch
    config: ComputeConfig
    accumulating: bool = False
    policy: bool = False


def peak(moments: Sequence[Moment]) -> Moment:
    """Return the moment with the most bytes."""
    return max(moments, key=lambda moment: moment.total)


def training_moments(resident: ResidentMemory, work: Work) -> list[Moment]:
    """Return the moments of a supervised step, or of a policy update."""
    sizes, batch, b = work.sizes, work.batch, work.config.dtype_bytes
    fixed = {"weights": resident.weights, "optimizer": resident.optimizer, "buffers": resident.buffers}
    accumulated = _earlier_gradients(resident) if work.accumulating else 0
    sums = resident.sums if work.accumulating else 0
    head = _head_gradient(work)
    logits = max(
        loss_forward(sizes, batch),
        loss_backward(sizes, batch, policy=work.policy),
        b * batch.labelled * sizes.vocabulary + head,
    )
    activations, in_flight = saved_activations(sizes, batch, work.config), gradients_in_flight(sizes, batch, b)
    if work.config.checkpointing:
        in_flight += recomputed_layer(sizes, batch, work.config)
    tied = head if sizes.tied else 0
    inputs = batch.tokens * b * sizes.text.hidden
    points = {
        "loss": {"gradients": accumulated, "activations": activations, "logits": logits},
        "first layers": {
            "gradients": sums + head if sums else max(accumulated, head),
            "activations": activations + in_flight,
        },
        "last layers": {
            "gradients": _late_gradients(resident, work),
            "activations": _late_activations(work) + in_flight,
        },
        "between passes": {
            "gradients": _late_gradients(resident, work),
            "activations": _activations_between_passes(work, activations),
        },
        "embedding": {"gradients": resident.gradients + sums + tied, "activations": inputs},
        "step": {"gradients": resident.gradients, "stepping": resident.stepping},
    }
    return [Moment(name=name, parts={**fixed, **parts}) for name, parts in points.items()]


def _earlier_gradients(resident: ResidentMemory) -> int:
    """Return the gradients of earlier micro-batches: their sums, where the engine keeps some."""
    return resident.sums or resident.gradients


def _head_gradient(work: Work) -> int:
    """Return the gradient of the output layer, which comes first; none if the model's own weights are not trained."""
    return 0 if work.config.keeps_weights else work.config.dtype_bytes * work.sizes.table


def _late_gradients(resident: ResidentMemory, work: Work) -> int:
    """Return the gradients when the backward pass reaches the first layer: without its own and the embedding's.

    With several passes every layer already has a gradient.
    """
    if work.accumulating or work.config.keeps_weights:
        return resident.gradients + (resident.sums if work.accumulating else 0)
    missing = 0 if work.sizes.tied else work.sizes.table
    missing += 0 if work.batch.several else work.sizes.layer
    return round(resident.gradients * (1 - missing / work.sizes.language))


def _late_activations(work: Work) -> int:
    """Return the activations still saved then: the first layer's of one pass, all layers' of the first of several."""
    batch, tower = work.batch, work.sizes.text
    if not batch.several:
        return 0 if work.config.checkpointing else layer_activations(tower, batch, 0, work.config)
    waiting = waiting_gradients(tower, batch, work.config.dtype_bytes)
    if work.config.checkpointing:
        return first_pass_tokens(batch) * work.config.dtype_bytes * tower.hidden * tower.layers + waiting
    first = (
        prompt_activations(tower, batch, work.config)
        if batch.prompts
        else layer_activations(tower, batch, 0, work.config)
    )
    return tower.layers * first + waiting


def _activations_between_passes(work: Work, activations: int) -> int:
    """Return, for several passes, all but the last one's activations plus the gradients of the cache it read."""
    batch, tower, config = work.batch, work.sizes.text, work.config
    if not batch.several:
        return 0
    tokens = batch.rows * batch.passes[-1]
    last = layer_activations(tower, batch, len(batch.passes) - 1, config)
    done = tokens * config.dtype_bytes * tower.hidden if config.checkpointing else last
    return activations - tower.layers * done + kv_cache_bytes(tower, batch, config.dtype_bytes)


def reference_moment(resident: Mapping[str, int], sizes: ModelSizes, batch: Batch, b: int) -> Moment:
    """Return the forward pass of GRPO's reference, without gradient; ``resident``: bytes allocated meanwhile."""
    passing = kv_cache_bytes(sizes.text, batch, b) + _inference_activations(sizes, batch.longest, b)
    parts = {"activations": passing, "logits": 3 * FLOAT * batch.labelled * sizes.vocabulary}
    return Moment(name="reference", parts={**resident, **parts})


def sampling_moment(
    resident: Mapping[str, int], sizes: ModelSizes, b: int, *, prompts: int, samples: int, prompt: int, steps: int
) -> Moment:
    """Return the sampling of ``samples`` answers of ``steps`` columns to each of ``prompts`` prompts.

    ``resident``: bytes allocated meanwhile.
    """
    rows = prompts * samples
    column = rows * sizes.vocabulary * SAMPLING_BYTES + _inference_activations(sizes, rows, b)
    prefill = _inference_activations(sizes, prompts * prompt, b)
    layer_cache = rows * 2 * b * sizes.text.kv_hidden * capacity(prompt, steps)
    cache = sizes.text.layers * layer_cache
    return Moment(
        name="drawing",
        parts={**resident, "cache": cache, "activations": max(prefill, layer_cache + column)},
    )


def capacity(prompt: int, steps: int) -> int:
    """Return the columns that a KV cache has allocated at the end: it doubles when full (model/cache.py)."""
    columns = prompt + HEADROOM
    while columns < prompt + steps:
        columns *= 2
    return columns


def image_encoding_moment(weights: int, sizes: ModelSizes, b: int, patches: int) -> Moment:
    """Return the encoding of images without gradient: one block's inner activations."""
    tower = sizes.vision
    inner = max(3 * b * tower.intermediate, 4 * b * tower.hidden + 4 * FLOAT * tower.hidden)
    block = patches * (sizes.patch * (FLOAT + b) + 2 * b * tower.hidden + inner)
    return Moment(name="pictures", parts={"weights": weights, "activations": block})


def _inference_activations(sizes: ModelSizes, tokens: int, b: int) -> int:
    """Return the inner activations of one layer in a pass without gradient."""
    return tokens * (b * 3 * sizes.text.intermediate + (FLOAT + 2 * b) * sizes.text.hidden)
