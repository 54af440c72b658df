"""Bytes that a forward pass saves for its backward pass, and that the backward pass needs on top, by formula.

The formulas follow the code that runs (stock decoder layers, training/sft/losses.py, model/forward/), one term for
each tensor that autograd saves; tests compare them with live tensors. Legend: b bytes of the model's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

from mirage_core.planning.sizes import ModelSizes, Tower

FLOAT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig:
    """How a model computes: ``dtype_bytes`` of a number; ``checkpointing``: layers are recomputed in the backward
    pass; ``adapters``: the sum of the ranks of a layer's adapters (0: there are none); ``frozen``: only a module beside
    the model is trained."""

    dtype_bytes: int
    checkpointing: bool = False
    adapters: int = 0
    frozen: bool = False

    @property
    def keeps_weights(self) -> bool:
        """Whether the model's own weights get no gradient."""
        return self.frozen or self.adapters > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A micro-batch of one process: ``rows`` of equal length, the columns of each of their ``passes``, labels of a row.

    ``prompts``, ``prompt``: prompts and tokens of each, encoded once for all rows that continue them (GRPO).
    ``padded``: rows differ in length, so attention runs on columns and everything else on tokens. ``patches``: of a
    row's images if the vision tower is trained; ``image_features``: precomputed features of a row.
    """

    rows: int
    passes: tuple[int, ...]
    labels: int
    prompts: int = 0
    prompt: int = 0
    padded: bool = False
    patches: int = 0
    image_features: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that pass through the layers."""
        return self.prompts * self.prompt + self.rows * sum(self.passes)

    @property
    def labelled(self) -> int:
        """Labelled tokens of all rows."""
        return self.rows * self.labels

    @property
    def longest(self) -> int:
        """Tokens of the longest pass."""
        return max(self.prompts * self.prompt, self.rows * max(self.passes))

    @property
    def several(self) -> bool:
        """Whether there is more than one pass, each reading the cache of those before it."""
        return bool(self.prompts) or len(self.passes) > 1


def rollout_passes(before: int, after: int, num_latents: int) -> tuple[int, ...]:
    """Return the columns of the passes of stage 2: up to latent_start, each latent but the last, the last one with the
    text after it."""
    return (before, *([1] * (num_latents - 1)), after + 1)


def token_activations(tower: Tower, config: ComputeConfig, *, padded: bool = False) -> int:
    """Return the bytes that one decoder layer saves of a token, without keys and values.

    Two norms save their input in float32 and, if their weight is trained, the normed token; then the input of every
    matrix, q, the output of attention; of the MLP the gate, its activation, the other half and their product.
    """
    b, hidden = config.dtype_bytes, tower.hidden
    norms = 2 * ((FLOAT + (0 if config.keeps_weights else b)) * hidden + FLOAT) + 2 * b * hidden
    attention = 2 * b * hidden + FLOAT * tower.heads + (b * hidden if padded else 0)
    return norms + attention + 4 * b * tower.intermediate + b * config.adapters


def layer_activations(tower: Tower, batch: Batch, at: int, config: ComputeConfig) -> int:
    """Return the bytes that one decoder layer saves of pass ``at``."""
    tokens = batch.rows * batch.passes[at]
    return tokens * token_activations(tower, config, padded=batch.padded) + _keys_and_values(
        tower, batch, at, config.dtype_bytes
    )


def prompt_activations(tower: Tower, batch: Batch, config: ComputeConfig) -> int:
    """Return the bytes that one decoder layer saves of the prompts, with keys and values."""
    return batch.prompts * batch.prompt * (token_activations(tower, config) + 2 * config.dtype_bytes * tower.kv_hidden)


def _prompt_cache_of_rows(tower: Tower, batch: Batch, b: int) -> int:
    """Return the keys and values of the prompts in one layer, repeated for every row that continues them."""
    return 2 * b * tower.kv_hidden * batch.rows * batch.prompt if batch.prompts else 0


def _keys_and_values(tower: Tower, batch: Batch, at: int, b: int) -> int:
    """Return the keys and values that a pass reads: all columns so far, copied in every pass after the first; with a
    mask, repeated for every head."""
    seen = batch.rows * ((batch.prompt if batch.prompts else 0) + sum(batch.passes[: at + 1]))
    masked = (at > 0 or batch.prompts > 0) and batch.passes[at] > 1
    return 2 * b * seen * (tower.hidden if masked else tower.kv_hidden)


def kv_cache_bytes(tower: Tower, batch: Batch, b: int) -> int:
    """Return the keys and values of all layers and columns."""
    columns = 2 * b * tower.kv_hidden * batch.tokens
    return tower.layers * (columns + _prompt_cache_of_rows(tower, batch, b))


def saved_activations(sizes: ModelSizes, batch: Batch, config: ComputeConfig) -> int:
    """Return everything that is saved between forward and backward pass, without the logits."""
    tower, b = sizes.text, config.dtype_bytes
    ends = batch.tokens * (FLOAT + 2 * b) * tower.hidden + batch.labelled * b * tower.hidden
    if config.checkpointing:
        layers = tower.layers * batch.tokens * b * tower.hidden
        layers += kv_cache_bytes(tower, batch, b) if batch.several else 0
    else:
        layers = tower.layers * sum(layer_activations(tower, batch, at, config) for at in range(len(batch.passes)))
        layers += tower.layers * prompt_activations(tower, batch, config) if batch.prompts else 0
    return layers + ends + input_features(sizes, batch, b) + vision_activations(sizes, batch, config)


def input_features(sizes: ModelSizes, batch: Batch, b: int) -> int:
    """Return the bytes of the precomputed image features of the batch."""
    return (batch.prompts or batch.rows) * batch.image_features * sizes.text.hidden * b


def recomputed_layer(sizes: ModelSizes, batch: Batch, config: ComputeConfig) -> int:
    """Return, with checkpointing, the activations of the layer that is recomputed, in its longest pass."""
    prompts = prompt_activations(sizes.text, batch, config) if batch.prompts else 0
    return max(prompts, *(layer_activations(sizes.text, batch, at, config) for at in range(len(batch.passes))))


def gradients_in_flight(sizes: ModelSizes, batch: Batch, b: int) -> int:
    """Return the gradients in flight through one layer: of the inner activations of its MLP."""
    return batch.longest * b * 2 * (sizes.text.intermediate + sizes.text.hidden)


def first_pass_tokens(batch: Batch) -> int:
    """Return the tokens of the first pass: the prompts where these are encoded once."""
    return batch.prompts * batch.prompt or batch.rows * batch.passes[0]


def waiting_gradients(tower: Tower, batch: Batch, b: int) -> int:
    """Return the gradients of the first pass's keys and values in all layers, which later passes left."""
    return 2 * b * tower.kv_hidden * tower.layers * first_pass_tokens(batch)


def vision_activations(sizes: ModelSizes, batch: Batch, config: ComputeConfig) -> int:
    """Return the bytes that a trained vision tower saves; 0 where it is frozen."""
    tower, patches, b = sizes.vision, (batch.prompts or batch.rows) * batch.patches, config.dtype_bytes
    norms = 2 * ((FLOAT + b) * tower.hidden + FLOAT) + 2 * b * tower.hidden
    block = patches * (norms + 7 * b * tower.hidden + 4 * b * tower.intermediate + FLOAT * tower.heads)
    ends = patches * (b * sizes.patch + (FLOAT + 4 * b) * tower.hidden)
    if config.checkpointing:
        return patches * tower.layers * b * tower.hidden + (block + ends if patches else 0)
    return tower.layers * block + ends


def loss_forward(sizes: ModelSizes, batch: Batch) -> int:
    """Return the peak of cross-entropy in the forward pass: logits in float32 and log-probabilities."""
    return 2 * FLOAT * batch.labelled * sizes.vocabulary


def loss_backward(sizes: ModelSizes, batch: Batch, *, policy: bool) -> int:
    """Return the peak of its backward pass: what is saved, and two gradients; of log-probabilities three."""
    return (4 if policy else 3) * FLOAT * batch.labelled * sizes.vocabulary
