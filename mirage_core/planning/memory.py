"""The memory of a stage on one device: its moments, and the one that needs most.

A moment is a point of a step at which memory peaks: the loss, a layer's backward pass, the optimizer's step, drawing
answers. Each says what of, so that advice can be given. Bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mirage_core.planning.activations import (
    FLOAT,
    Batch,
    Form,
    cached,
    first_pass,
    in_flight,
    kept,
    layer_kept,
    loss_backward,
    loss_forward,
    prompts_kept,
    recomputed,
    waiting,
)
from mirage_core.planning.resident_memory import Held
from mirage_core.planning.sizes import ModelSizes

HEADROOM = 64
"""Columns that a decoding's cache is larger than what is in it (model/cache.py)."""
DRAWING = 28
"""Bytes of a logit while a token is drawn: scores, chances, their double sums (model/sampling.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A point of a step: bytes by what they are of."""

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One training step of one process: its model, what is computed at once, and how.

    ``accumulating``: gradients of earlier portions are there already; ``policy``: GRPO's log-probabilities.
    """

    sizes: ModelSizes
    batch: Batch
    form: Form
    accumulating: bool = False
    policy: bool = False


def peak(moments: Sequence[Moment]) -> Moment:
    """The moment that needs most."""
    return max(moments, key=lambda moment: moment.total)


def training_moments(held: Held, work: Work) -> list[Moment]:
    """The moments of a supervised step, or of learning from drawn answers."""
    sizes, batch, b = work.sizes, work.batch, work.form.number
    fixed = {"weights": held.weights, "optimizer": held.optimizer, "buffers": held.buffers}
    earlier = held.gradients if work.accumulating else 0
    head = _head_gradient(work)
    logits = max(
        loss_forward(sizes, batch),
        loss_backward(sizes, batch, policy=work.policy),
        b * batch.labelled * sizes.vocabulary + head,
    )
    activations, flight = kept(sizes, batch, work.form), in_flight(sizes, batch, b)
    if work.form.checkpointing:
        flight += recomputed(sizes, batch, work.form)
    tied = head if sizes.tied else 0
    inputs = batch.tokens * b * sizes.text.hidden
    named = {
        "loss": {"gradients": earlier, "activations": activations, "logits": logits},
        "first layers": {"gradients": max(earlier, head), "activations": activations + flight},
        "last layers": {"gradients": _late_gradients(held, work), "activations": _late(work) + flight},
        "between passes": {"gradients": _late_gradients(held, work), "activations": _between(work, activations)},
        "embedding": {"gradients": held.gradients + tied, "activations": inputs},
        "step": {"gradients": held.gradients, "stepping": held.stepping},
    }
    return [Moment(name=name, parts={**fixed, **parts}) for name, parts in named.items()]


def _head_gradient(work: Work) -> int:
    """The gradient of the output layer, which comes first; none where only adapters learn."""
    return 0 if work.form.adapters else work.form.number * work.sizes.table


def _late_gradients(held: Held, work: Work) -> int:
    """Gradients when the backward pass comes to the layers next to the input: all but the table's, and theirs.

    After several passes all layers have had some.
    """
    if work.accumulating or work.form.adapters:
        return held.gradients
    missing = 0 if work.sizes.tied else work.sizes.table
    missing += 0 if work.batch.several else work.sizes.layer
    return round(held.gradients * (1 - missing / work.sizes.language))


def _late(work: Work) -> int:
    """What is still kept then, beside the layer that is computed again: nothing of one pass, of several the first."""
    batch, tower = work.batch, work.sizes.text
    if not batch.several:
        return 0 if work.form.checkpointing else layer_kept(tower, batch, 0, work.form)
    grown = waiting(tower, batch, work.form.number)
    if work.form.checkpointing:
        return first_pass(batch) * work.form.number * tower.hidden * tower.layers + grown
    first = prompts_kept(tower, batch, work.form) if batch.prompts else layer_kept(tower, batch, 0, work.form)
    return tower.layers * first + grown


def _between(work: Work, activations: int) -> int:
    """Of several passes: all but the last one's, and the gradients of what it read of those before it."""
    batch, tower, form = work.batch, work.sizes.text, work.form
    if not batch.several:
        return 0
    tokens = batch.rows * batch.passes[-1]
    last = layer_kept(tower, batch, len(batch.passes) - 1, form)
    done = tokens * form.number * tower.hidden if form.checkpointing else last
    return activations - tower.layers * done + cached(tower, batch, form.number)


def reference_moment(resident: Mapping[str, int], sizes: ModelSizes, batch: Batch, b: int) -> Moment:
    """GRPO: the reference's pass, without gradient. ``resident``: what lies on the device meanwhile."""
    passing = cached(sizes.text, batch, b) + _passing(sizes, batch.longest, b)
    parts = {"activations": passing, "logits": 3 * FLOAT * batch.labelled * sizes.vocabulary}
    return Moment(name="reference", parts={**resident, **parts})


def drawing_moment(
    resident: Mapping[str, int], sizes: ModelSizes, b: int, *, prompts: int, samples: int, prompt: int, steps: int
) -> Moment:
    """Drawing ``samples`` answers to each of ``prompts`` prompts, ``steps`` columns each: the cache, and one column.

    ``resident``: what lies on the device meanwhile.
    """
    rows = prompts * samples
    column = rows * sizes.vocabulary * DRAWING + _passing(sizes, rows, b)
    prefill = _passing(sizes, prompts * prompt, b)
    one = 2 * b * sizes.text.kv_hidden
    cache = rows * sizes.text.layers * one * capacity(prompt, steps)
    growing = rows * one * capacity(prompt, steps)
    return Moment(
        name="drawing",
        parts={**resident, "cache": cache, "activations": max(prefill, growing + column)},
    )


def capacity(prompt: int, steps: int) -> int:
    """Columns that a decoding's cache has room for at its end: it doubles when full (model/cache.py)."""
    room = prompt + HEADROOM
    while room < prompt + steps:
        room = 2 * room
    return room


def pictures_moment(weights: int, sizes: ModelSizes, b: int, patches: int) -> Moment:
    """Encoding pictures without gradient: one block's inner tokens."""
    tower = sizes.vision
    inner = max(3 * b * tower.intermediate, 4 * b * tower.hidden + 4 * FLOAT * tower.hidden)
    block = patches * (sizes.patch * (FLOAT + b) + 2 * b * tower.hidden + inner)
    return Moment(name="pictures", parts={"weights": weights, "activations": block})


def _passing(sizes: ModelSizes, tokens: int, b: int) -> int:
    """Inner tokens of one layer in a pass without gradient."""
    return tokens * (b * 3 * sizes.text.intermediate + (FLOAT + 2 * b) * sizes.text.hidden)
