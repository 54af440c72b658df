"""The forward of stage 1: compressed auxiliary images are the latents that are fed, and their targets. Paper, Eq. 2.

Legend: B rows, T columns, S spans, K latents of a span, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_core.config import FeedNorm
from mirage_core.errors import InputError
from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.compress import Compression, compress_all
from mirage_core.model.backbone import Backbone, InputEmbeddings
from mirage_core.model.forward.forward import (
    check_aligned,
    copy_to_reencoded,
    embed_batch,
    fed_norms,
    image_features,
    rollout,
    single_pass,
    span_latents,
)


@dataclass(frozen=True, slots=True)
class GroundingOutput:
    """Stage 1: hidden [B, T, D], predicted [S, K, D] (hidden one token earlier), targets [S, K, D] (detached).

    ``image_features``: merged features of the input images, [n_i, D] each.
    """

    hidden: Tensor
    predicted: Tensor
    targets: Tensor
    image_features: list[Tensor]


def grounding_forward(
    backbone: Backbone,
    batch: LatentBatch,
    compression: Compression,
    *,
    checkpointing: bool = False,
    blank: bool = False,
    horizon: int = 1,
    feed_norm: FeedNorm = "own",
) -> GroundingOutput:
    """Stage 1: the compressed auxiliary images are the inputs at the latent positions. Paper, Eq. 2.

    ``blank``: the inputs there are the tokens of the batch; the images are only targets. ``horizon``: every so many
    latents the input is a target, those between are the model's own, with gradient and at ``feed_norm`` (1: the paper;
    K or more: all are its own). InputError without one auxiliary image a span, for spans of different lengths, for more
    latents than patches, and for a horizon in a batch that is not aligned.
    """
    images = image_features(backbone, batch, checkpointing=checkpointing)
    embedded = backbone.embed(batch.input_ids, images)
    targets = target_latents(backbone, batch, compression).to(embedded.tokens.dtype)
    merged = [backbone.merged(image) for image in images]
    if horizon > 1 and not blank:
        check_aligned(batch)
        forcing = _TeacherForcing(targets, horizon)
        norms = fed_norms(backbone, batch, images, feed_norm)
        hidden = rollout(backbone, embedded, batch, checkpointing=checkpointing, latent_transform=forcing, norms=norms)
        return GroundingOutput(hidden, span_latents(batch, hidden), targets, merged)
    columns = _span_columns(batch)
    if not blank:
        embedded = _with_targets(embedded, batch, columns, targets)
    hidden = single_pass(backbone, embedded, batch, checkpointing=checkpointing)
    predicted = hidden[batch.span_rows[:, None], columns - 1]
    return GroundingOutput(hidden, predicted, targets, merged)


def fed_forward(backbone: Backbone, batch: LatentBatch, latents: Tensor, *, checkpointing: bool = False) -> Tensor:
    """Return hidden states [B, T, D] of one pass with ``latents`` [S, K, D] as inputs of the spans, with gradient.

    InputError for spans of another length.
    """
    embedded = embed_batch(backbone, batch, checkpointing)
    columns = _span_columns(batch)
    if len(columns) and latents.shape[:2] != columns.shape:
        raise InputError(f"Got latents of {tuple(latents.shape[:2])} for spans and lengths of {tuple(columns.shape)}.")
    embedded = _with_targets(embedded, batch, columns, latents.to(embedded.tokens.dtype))
    return single_pass(backbone, embedded, batch, checkpointing=checkpointing)


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


def target_latents(backbone: Backbone, batch: LatentBatch, compression: Compression) -> Tensor:
    """Return target latents [S, K, D], detached even where the vision tower is trained.

    InputError as for ``grounding_forward``.
    """
    images = auxiliary_images(backbone, batch)
    if not images:
        return torch.empty(0, 0, backbone.hidden_size, device=backbone.device)
    with torch.no_grad():
        length = int(batch.span_lengths[0])
        return compress_all(select_patches(images, batch.auxiliary_patch_masks), length, compression)


def auxiliary_images(backbone: Backbone, batch: LatentBatch) -> list[Tensor]:
    """Return the merged features [n_i, D] of the auxiliary images, one a span, detached.

    InputError without one auxiliary image a span, and for spans of different lengths.
    """
    lengths = set(batch.span_lengths.tolist())
    if len(batch.auxiliary_grid_thw) != len(batch.span_rows):
        raise InputError(
            f"Grounding needs one auxiliary image a span: got {len(batch.auxiliary_grid_thw)} for "
            f"{len(batch.span_rows)} spans. Encode with Encoder.example(example, with_latents=True)."
        )
    if len(lengths) > 1:
        raise InputError(
            f"Grounding needs spans of one length, got {sorted(lengths)}; use one latent.num_latents "
            "(latent.length fixed)."
        )
    with torch.no_grad():
        features = list(batch.auxiliary_features) or backbone.image_features(
            batch.auxiliary_pixel_values, batch.auxiliary_grid_thw
        )
        return [backbone.merged(image) for image in features]


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
    return copy_to_reencoded(embedded.with_latents(batch.span_rows[:, None], columns, latents), batch)
