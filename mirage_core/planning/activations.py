"""What a forward pass keeps for its backward pass, and what the backward pass needs on top: bytes by formula.

The formulas follow the code that runs (stock decoder layers, training/losses.py, model/passes.py), one term for each
tensor that autograd keeps; tests hold them against live tensors. Legend: D hidden, F intermediate, H heads,
V vocabulary, C columns of a pass, k latents, b bytes of a number of the model's type.
"""

from __future__ import annotations

from dataclasses import dataclass

from mirage_core.planning.sizes import ModelSizes, Tower

FLOAT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a model computes: ``number``, bytes of a number of its type; whether layers are computed again in the
    backward pass; ``adapters``: ranks of all adapters of a layer together (0: all weights learn)."""

    number: int
    checkpointing: bool = False
    adapters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a process computes at once: ``rows`` alike, the columns of each of their ``passes``, labelled tokens a row.

    ``prompts``, ``prompt``: how many prompts of how many tokens are encoded before, for all rows that go on from
    them (GRPO). ``padded``: rows differ in length, so that attention runs on columns and all else on tokens.
    ``patches``: of a row's pictures, where the vision tower learns; ``fed``: image features that a row is given.
    """

    rows: int
    passes: tuple[int, ...]
    labels: int
    prompts: int = 0
    prompt: int = 0
    padded: bool = False
    patches: int = 0
    fed: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that go through the layers."""
        return self.prompts * self.prompt + self.rows * sum(self.passes)

    @property
    def labelled(self) -> int:
        """Labelled tokens of all rows."""
        return self.rows * self.labels

    @property
    def longest(self) -> int:
        """Tokens of the pass that has most."""
        return max(self.prompts * self.prompt, self.rows * max(self.passes))

    @property
    def several(self) -> bool:
        """Whether there is more than one pass, each over what those before it left."""
        return bool(self.prompts) or len(self.passes) > 1


def rolled_out(before: int, after: int, num_latents: int) -> tuple[int, ...]:
    """The columns of the passes of stage 2: up to latent_start, latents one by one but the last, which goes with the
    text behind it."""
    return (before, *([1] * (num_latents - 1)), after + 1)


def token_kept(tower: Tower, form: Form, *, padded: bool = False) -> int:
    """What one decoder layer keeps of a token, but for keys and values.

    Two norms keep their input in float32 and, where their weight learns, the normed token; then the input of every
    matrix, q, what attention gives; of the MLP the gate, its activation, the other half and their product.
    """
    b, hidden = form.number, tower.hidden
    norms = 2 * ((FLOAT + (0 if form.adapters else b)) * hidden + FLOAT) + 2 * b * hidden
    attention = 2 * b * hidden + FLOAT * tower.heads + (b * hidden if padded else 0)
    return norms + attention + 4 * b * tower.intermediate + b * form.adapters


def layer_kept(tower: Tower, batch: Batch, at: int, form: Form) -> int:
    """What one decoder layer keeps of pass ``at``."""
    tokens = batch.rows * batch.passes[at]
    return tokens * token_kept(tower, form, padded=batch.padded) + _keys_and_values(tower, batch, at, form.number)


def prompts_kept(tower: Tower, batch: Batch, form: Form) -> int:
    """What one decoder layer keeps of the prompts, keys and values included."""
    return batch.prompts * batch.prompt * (token_kept(tower, form) + 2 * form.number * tower.kv_hidden)


def _for_rows(tower: Tower, batch: Batch, b: int) -> int:
    """Keys and values of the prompts, once for every row that goes on from them (one layer)."""
    return 2 * b * tower.kv_hidden * batch.rows * batch.prompt if batch.prompts else 0


def _keys_and_values(tower: Tower, batch: Batch, at: int, b: int) -> int:
    """Keys and values that a pass reads: all columns so far, anew in every pass after the first; where a mask is
    needed, once for every head."""
    seen = batch.rows * ((batch.prompt if batch.prompts else 0) + sum(batch.passes[: at + 1]))
    masked = (at > 0 or batch.prompts > 0) and batch.passes[at] > 1
    return 2 * b * seen * (tower.hidden if masked else tower.kv_hidden)


def cached(tower: Tower, batch: Batch, b: int) -> int:
    """Keys and values of all layers and columns."""
    own = 2 * b * tower.kv_hidden * batch.tokens
    return tower.layers * (own + _for_rows(tower, batch, b))


def kept(sizes: ModelSizes, batch: Batch, form: Form) -> int:
    """Everything that is kept between forward and backward pass, but for the logits."""
    tower, b = sizes.text, form.number
    ends = batch.tokens * (FLOAT + 2 * b) * tower.hidden + batch.labelled * b * tower.hidden
    if form.checkpointing:
        layers = tower.layers * batch.tokens * b * tower.hidden
        layers += cached(tower, batch, b) if batch.several else 0
    else:
        layers = tower.layers * sum(layer_kept(tower, batch, at, form) for at in range(len(batch.passes)))
        layers += tower.layers * prompts_kept(tower, batch, form) if batch.prompts else 0
    return layers + ends + given(sizes, batch, b) + vision_kept(sizes, batch, form)


def given(sizes: ModelSizes, batch: Batch, b: int) -> int:
    """Image features that come with the batch."""
    return (batch.prompts or batch.rows) * batch.fed * sizes.text.hidden * b


def recomputed(sizes: ModelSizes, batch: Batch, form: Form) -> int:
    """With checkpointing: the layer that is computed again, of its longest pass."""
    prompts = prompts_kept(sizes.text, batch, form) if batch.prompts else 0
    return max(prompts, *(layer_kept(sizes.text, batch, at, form) for at in range(len(batch.passes))))


def in_flight(sizes: ModelSizes, batch: Batch, b: int) -> int:
    """Gradients on their way through one layer, of its MLP's inner tokens."""
    return batch.longest * b * 2 * (sizes.text.intermediate + sizes.text.hidden)


def first_pass(batch: Batch) -> int:
    """Tokens of the first pass: of the prompts, where these are encoded before."""
    return batch.prompts * batch.prompt or batch.rows * batch.passes[0]


def waiting(tower: Tower, batch: Batch, b: int) -> int:
    """Gradients of the first pass's keys and values in all layers, which later passes gave."""
    return 2 * b * tower.kv_hidden * tower.layers * first_pass(batch)


def vision_kept(sizes: ModelSizes, batch: Batch, form: Form) -> int:
    """What a vision tower that learns keeps; nothing where it is frozen."""
    tower, patches, b = sizes.vision, (batch.prompts or batch.rows) * batch.patches, form.number
    norms = 2 * ((FLOAT + b) * tower.hidden + FLOAT) + 2 * b * tower.hidden
    block = patches * (norms + 7 * b * tower.hidden + 4 * b * tower.intermediate + FLOAT * tower.heads)
    ends = patches * (b * sizes.patch + (FLOAT + 4 * b) * tower.hidden)
    if form.checkpointing:
        return patches * tower.layers * b * tower.hidden + (block + ends if patches else 0)
    return tower.layers * block + ends


def loss_forward(sizes: ModelSizes, batch: Batch) -> int:
    """The most that cross-entropy holds in the forward pass: the logits in float32 and their logarithms."""
    return 2 * FLOAT * batch.labelled * sizes.vocabulary


def loss_kept(sizes: ModelSizes, batch: Batch) -> int:
    """What cross-entropy (or the log-probabilities of GRPO) keeps."""
    return FLOAT * batch.labelled * sizes.vocabulary


def loss_backward(sizes: ModelSizes, batch: Batch, *, policy: bool) -> int:
    """The most that its backward pass holds: what is kept, and two gradients; of log-probabilities one more."""
    return (4 if policy else 3) * FLOAT * batch.labelled * sizes.vocabulary
