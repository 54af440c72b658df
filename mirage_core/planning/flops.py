"""Floating-point operations of a step, and the seconds they take at given rates.

A multiplication and an addition count two. Legend: D hidden, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from mirage_core.planning.activations import Batch, Form
from mirage_core.planning.sizes import ModelSizes

STEP_BYTES = 36
"""Bytes that an optimizer step reads and writes a parameter: float32 gradient, weight and two moments, and copies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a device does in a second. Only the first is asked for; the others are stated assumptions, or measured.

    ``training``, ``rolling``: sustained TFLOP/s of one pass over all tokens, and of stage 2's several passes.
    ``memory``: GB/s of the device's memory (an A100 or H100 has 2,000 to 3,350). ``main``: of main memory and the way
    there, for what is offloaded. ``link``: between devices. ``launch_ms``: the least a layer's forward pass takes,
    however little it computes: a stock layer starts some forty kernels (1.3 ms on a machine with an H100,
    docs/real-size.md).
    """

    training: float
    rolling: float
    memory: float = 2000.0
    main: float = 25.0
    link: float = 100.0
    launch_ms: float = 1.3
    measured: bool = False


def forward(sizes: ModelSizes, tokens: int, context: float, labelled: int) -> float:
    """Operations of a forward pass over ``tokens`` that each see ``context`` others; logits of ``labelled`` ones."""
    matrices = 2.0 * sizes.parameters["layers"] * tokens
    attention = 4.0 * sizes.text.hidden * sizes.text.layers * tokens * context
    return matrices + attention + 2.0 * sizes.table * labelled


def encoding(sizes: ModelSizes, patches: float) -> float:
    """Operations of the vision tower over ``patches``."""
    return 2.0 * sizes.parameters["vision"] * patches


def training(sizes: ModelSizes, batch: Batch, form: Form) -> tuple[float, float]:
    """Operations of forward and backward pass: the model's own, and with what is computed again.

    The backward pass takes twice the forward pass; where only adapters learn, once (no gradients of weights).
    """
    columns = batch.prompt + sum(batch.passes) if batch.prompts else sum(batch.passes)
    once = forward(sizes, batch.tokens, columns / 2, batch.labelled)
    vision = 3 * encoding(sizes, (batch.prompts or batch.rows) * batch.patches)
    own = once * (2 if form.adapters else 3) + vision
    again = once - 2.0 * sizes.table * batch.labelled if form.checkpointing else 0.0
    return own, own + again


def training_seconds(
    sizes: ModelSizes, batch: Batch, form: Form, operations: float, rate: float, rates: Rates, *, portions: int
) -> float:
    """Seconds of ``operations`` that a process computes in ``portions`` of passes like the batch's, at a rate.

    A pass takes at least what launching its layers takes, forward, twice backward, and again where it is computed
    again; a measured rate has that in it.
    """
    if rates.measured:
        return operations / (rate * 1e12)
    launches = sizes.text.layers * rates.launch_ms / 1e3 * (4 if form.checkpointing else 3)
    own = [batch.prompts * batch.prompt] if batch.prompts else []
    passes = [*own, *(batch.rows * columns for columns in batch.passes)]
    each = [operations / portions * tokens / sum(passes) / (rate * 1e12) for tokens in passes]
    return portions * sum(max(seconds, launches) for seconds in each)


def column_seconds(sizes: ModelSizes, rows: int, context: float, number: int, rates: Rates) -> float:
    """Seconds of one column of a decoding: weights and cache are read once, or the layers' launches take longer."""
    compute = forward(sizes, rows, context, rows) / (rates.training * 1e12)
    cache = 2.0 * number * sizes.text.kv_hidden * sizes.text.layers * rows * context
    reading = (number * sizes.language + cache) / (rates.memory * 1e9)
    return max(compute, reading, sizes.text.layers * rates.launch_ms / 1e3)


def drawing_seconds(
    sizes: ModelSizes, *, prompts: int, samples: int, prompt: int, columns: int, number: int, rates: Rates
) -> float:
    """Seconds of drawing ``samples`` answers of ``columns`` columns to each of ``prompts`` prompts, all at once."""
    begun = forward(sizes, prompts * prompt, prompt / 2, prompts) / (rates.training * 1e12)
    return begun + columns * column_seconds(sizes, prompts * samples, prompt + columns / 2, number, rates)


def step_seconds(trained: int, world: int, *, shared: bool, offloaded: bool, number: int, rates: Rates) -> float:
    """Seconds of an optimizer step, and of the gradients' way between devices before it."""
    own = trained / world if shared else trained
    stepping = STEP_BYTES * own / ((rates.main if offloaded else rates.memory) * 1e9)
    moving = 2.0 * number * trained / (rates.link * 1e9) if world > 1 else 0.0
    return stepping + moving
