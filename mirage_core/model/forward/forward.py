"""Training forwards with latents: as targets (stage 1), rolled out with gradient (stage 2), or replayed (GRPO).

Legend: B rows, T columns, S spans, K latents of the longest span, D hidden, F width of image features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.latent.bottleneck import Segment
from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.collate_answers import AnswerBatch
from mirage_core.latent.compress import Compression, compress_all
from mirage_core.model.backbone import Backbone, InputEmbeddings
from mirage_core.model.forward.passes import LatentTransform, encode_prompts, rollout, single_pass


@dataclass(frozen=True, slots=True)
class GroundingOutput:
    """Stage 1: hidden [B, T, D], predicted [S, K, D] (hidden one token earlier), targets [S, K, D] (detached).

    ``image_features``: merged features of the input images, [n_i, D] each.
    """

    hidden: Tensor
    predicted: Tensor
    targets: Tensor
    image_features: list[Tensor]


@dataclass(frozen=True, slots=True)
class RelaxationOutput:
    """Stage 2: hidden [B, T, D], and latents [S, K, D] in the order of batch.span_rows, before any transform.

    A span shorter than K has undefined last rows.
    """

    hidden: Tensor
    latents: Tensor


def text_forward(backbone: Backbone, batch: LatentBatch, *, checkpointing: bool = False) -> Tensor:
    """Return hidden states [B, T, D] of an ordinary pass; latent pads, if any, are embedded as ordinary tokens."""
    embedded = _embedded(backbone, batch, checkpointing)
    return single_pass(backbone, embedded, batch, checkpointing=checkpointing)


def blank_forward(backbone: Backbone, batch: LatentBatch, *, checkpointing: bool = False) -> RelaxationOutput:
    """Run the control of both stages: spans hold blank tokens, and no hidden state is fed back."""
    hidden = text_forward(backbone, batch, checkpointing=checkpointing)
    return RelaxationOutput(hidden, _latents(batch, hidden))


def grounding_forward(
    backbone: Backbone,
    batch: LatentBatch,
    compression: Compression,
    *,
    checkpointing: bool = False,
    blank: bool = False,
    horizon: int = 1,
) -> GroundingOutput:
    """Stage 1: the compressed auxiliary images are the inputs at the latent positions. Paper, Eq. 2.

    ``blank``: the input there is the embedding of latent_pad; the images are only targets. ``horizon``: every so many
    latents the input is a target, those between are the model's own, with gradient (1: the paper; K or more: all are
    its own). InputError without one auxiliary image a span, for spans of different lengths, for more latents than
    patches, and for a horizon in a batch that is not aligned.
    """
    images = image_features(backbone, batch, checkpointing=checkpointing)
    embedded = backbone.embed(batch.input_ids, images)
    targets = target_latents(backbone, batch, compression).to(embedded.tokens.dtype)
    merged = [backbone.merged(image) for image in images]
    if horizon > 1 and not blank:
        _check_aligned(batch)
        forcing = _TeacherForcing(targets, horizon)
        hidden = rollout(backbone, embedded, batch, checkpointing=checkpointing, latent_transform=forcing)
        return GroundingOutput(hidden, _latents(batch, hidden), targets, merged)
    columns = _span_columns(batch)
    if not blank:
        embedded = _with_targets(embedded, batch, columns, targets)
    hidden = single_pass(backbone, embedded, batch, checkpointing=checkpointing)
    predicted = hidden[batch.span_rows[:, None], columns - 1]
    return GroundingOutput(hidden, predicted, targets, merged)


@dataclass(frozen=True, slots=True)
class _TeacherForcing:
    """A ``LatentTransform`` that replaces every ``horizon``-th latent by its target; ``targets`` [S, K, D]."""

    targets: Tensor
    horizon: int

    def __call__(self, latents: Tensor, numbers: Tensor) -> Tensor:
        length = self.targets.shape[1]
        if self.horizon >= length:
            return latents
        forced = (numbers % length + 1) % self.horizon == 0
        return torch.where(forced[:, None], self.targets.flatten(0, 1).index_select(0, numbers).to(latents), latents)


def relaxation_forward(
    backbone: Backbone,
    batch: LatentBatch,
    checkpointing: bool = False,
    *,
    latent_transform: LatentTransform | None = None,
) -> RelaxationOutput:
    """Stage 2: every latent is the hidden state one token earlier, with gradient. Paper, Eq. 4.

    One pass for each segment, whose last column gives the first latent, and one for each latent but a block's
    last, which goes with the next segment: k + 1 passes for one span. ``latent_transform`` changes latents before they
    become inputs. InputError for a batch that is not aligned.
    """
    _check_aligned(batch)
    embedded = _embedded(backbone, batch, checkpointing)
    hidden = rollout(backbone, embedded, batch, checkpointing=checkpointing, latent_transform=latent_transform)
    return RelaxationOutput(hidden, _latents(batch, hidden))


def _check_aligned(batch: LatentBatch) -> None:
    if len(batch.span_rows) and not batch.aligned:
        raise InputError("Rolling latents out needs spans in shared columns: collate with align=True.")


def replay_forward(
    backbone: Backbone, batch: LatentBatch, latents: Sequence[Tensor], *, checkpointing: bool = False
) -> Tensor:
    """Return hidden states [B, T, D] with recorded latents ([k_s, D] a span, in the order of batch.span_rows).

    One parallel pass: cheaper than relaxation_forward, and biased, since no gradient flows through the latents.
    """
    embedded = _with_recorded(_embedded(backbone, batch, checkpointing), batch, latents)
    return single_pass(backbone, embedded, batch, checkpointing=checkpointing)


def answers_forward(
    backbone: Backbone,
    batch: AnswerBatch,
    latents: Sequence[Tensor] | None = None,
    *,
    checkpointing: bool = False,
    blank: bool = False,
) -> Tensor:
    """Return hidden states [B, T, D] of ``batch.answers``; a prompt is encoded once for all its answers, with gradient.

    Latents are rolled out as in ``relaxation_forward``, or, with ``latents``, replayed as in ``replay_forward``;
    ``blank``: the input is the embedding of latent_pad.
    """
    prompts, answers = batch.prompts, batch.answers
    embedded = _embedded(backbone, prompts, checkpointing)
    prefix = encode_prompts(backbone, embedded, prompts, batch.owners, checkpointing=checkpointing)
    embedded = _embedded(backbone, answers, checkpointing)
    if latents is None and not blank:
        return rollout(backbone, embedded, answers, checkpointing=checkpointing, prefix=prefix)
    if latents is not None and not blank:
        embedded = _with_recorded(embedded, answers, latents)
    return single_pass(backbone, embedded, answers, checkpointing=checkpointing, prefix=prefix)


def _with_recorded(embedded: InputEmbeddings, batch: LatentBatch, latents: Sequence[Tensor]) -> InputEmbeddings:
    """Return embeddings with recorded latents at the latent positions; InputError where lengths do not match."""
    lengths = [len(latent) for latent in latents]
    if lengths != batch.span_lengths.tolist():
        raise InputError(f"Recorded latents of lengths {lengths} for spans of {batch.span_lengths.tolist()}.")
    if not lengths:
        return embedded
    flat = torch.cat(list(latents)).to(embedded.tokens).detach()
    rows = batch.span_rows.repeat_interleave(batch.span_lengths)
    offsets = torch.cat([torch.arange(length) for length in lengths]).to(rows.device)
    columns = batch.span_starts.repeat_interleave(batch.span_lengths) + offsets
    return _copy_to_reencoded(embedded.with_latents(rows, columns, flat), batch)


def _copy_to_reencoded(embedded: InputEmbeddings, batch: LatentBatch) -> InputEmbeddings:
    """Return embeddings with the latents also where they are encoded again (bottleneck latent_only)."""
    if batch.bottleneck != "latent_only":
        return embedded
    rows, columns = (batch.segments == Segment.REENCODED).nonzero(as_tuple=True)
    return embedded.with_latents(rows, columns, embedded.tokens[batch.segments == Segment.LATENT])


def _latents(batch: LatentBatch, hidden: Tensor) -> Tensor:
    """Return the latents [S, K, D] of a rollout: each is the hidden state one column earlier."""
    if not len(batch.span_rows):
        return hidden.new_empty(0, 0, hidden.shape[-1])
    # Blocks of aligned spans give K without synchronizing a GPU.
    longest = max(block.width for block in batch.blocks) if batch.blocks else int(batch.span_lengths.max())
    offsets = torch.arange(longest, device=hidden.device)
    columns = (batch.span_starts[:, None] - 1 + offsets).clamp(max=hidden.shape[1] - 1)
    return hidden[batch.span_rows[:, None], columns]


def _embedded(backbone: Backbone, batch: LatentBatch, checkpointing: bool = False) -> InputEmbeddings:
    return backbone.embed(batch.input_ids, image_features(backbone, batch, checkpointing=checkpointing))


def image_features(backbone: Backbone, batch: LatentBatch, *, checkpointing: bool = False) -> list[Tensor]:
    """Return features [n_i, F] of the input images: precomputed, or from their pixels."""
    cached = list(batch.image_features)
    return cached or backbone.image_features(batch.pixel_values, batch.grid_thw, checkpointing=checkpointing)


def target_latents(backbone: Backbone, batch: LatentBatch, compression: Compression) -> Tensor:
    """Return target latents [S, K, D], detached even where the vision tower is trained.

    InputError as for ``grounding_forward``.
    """
    lengths = set(batch.span_lengths.tolist())
    if len(batch.auxiliary_grid_thw) != len(batch.span_rows):
        raise InputError(
            f"Grounding needs one auxiliary image a span: got {len(batch.auxiliary_grid_thw)} for "
            f"{len(batch.span_rows)} spans. Encode with Encoder.example(example, with_latents=True)."
        )
    if not lengths:
        return torch.empty(0, 0, backbone.hidden_size, device=backbone.device)
    if len(lengths) > 1:
        raise InputError(f"Grounding needs spans of one length, got {sorted(lengths)}; use one latent.num_latents.")
    with torch.no_grad():
        features = list(batch.auxiliary_features) or backbone.image_features(
            batch.auxiliary_pixel_values, batch.auxiliary_grid_thw
        )
        merged = [backbone.merged(image) for image in features]
        return compress_all(select_patches(merged, batch.auxiliary_patch_masks), lengths.pop(), compression)


def select_patches(images: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
    """Return the patches of images [n_i, D] that targets are compressed from; masks [n_i] on the CPU; none: all."""
    if not masks:
        return list(images)
    # By index: indexing with a mask on a GPU would synchronize at every image.
    indices = [mask.nonzero()[:, 0] for mask in masks]
    return [
        image.index_select(0, index.to(image.device, non_blocking=True))
        for image, index in zip(images, indices, strict=True)
    ]


def _span_columns(batch: LatentBatch) -> Tensor:
    """Return the columns [S, K] of the latents, for spans of one length."""
    length = int(batch.span_lengths[0]) if len(batch.span_lengths) else 0
    return batch.span_starts[:, None] + torch.arange(length, device=batch.span_starts.device)


def _with_targets(embedded: InputEmbeddings, batch: LatentBatch, columns: Tensor, latents: Tensor) -> InputEmbeddings:
    """Return embeddings with ``latents`` [S, K, D] in their columns [S, K]."""
    if not len(latents):
        return embedded
    return _copy_to_reencoded(embedded.with_latents(batch.span_rows[:, None], columns, latents), batch)
