"""Forward passes with latents: given as targets, rolled out with gradient, or replayed.

Legend: B rows, T columns, S spans, K latents of the longest span, D hidden, F width of image features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.latent.bottleneck import Zone
from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.collate_answers import AnswerBatch
from mirage_core.latent.compress import Compression, compress_all
from mirage_core.model.backbone import Backbone, Embedded
from mirage_core.model.forward.passes import Disturb, one_pass, prefix_pass, roll_out


@dataclass(frozen=True, slots=True)
class Grounded:
    """Stage 1: hidden [B, T, D], predicted [S, K, D] (hidden one token earlier), targets [S, K, D] (detached),
    and ``image_features`` of the input images (one [n_i, D] an image, merged)."""

    hidden: Tensor
    predicted: Tensor
    targets: Tensor
    image_features: list[Tensor]


@dataclass(frozen=True, slots=True)
class Relaxed:
    """Stage 2: hidden [B, T, D], and the latents [S, K, D], in the order of batch.span_rows, before any disturbance.

    Where a span is shorter than K, its last rows mean nothing.
    """

    hidden: Tensor
    latents: Tensor


def text_forward(backbone: Backbone, batch: LatentBatch, *, checkpointing: bool = False) -> Tensor:
    """Hidden states [B, T, D] of an ordinary pass; latent pads, if any, are embedded as ordinary tokens."""
    embedded = _embedded(backbone, batch, checkpointing)
    return one_pass(backbone, embedded, batch, checkpointing=checkpointing)


def blank_forward(backbone: Backbone, batch: LatentBatch, *, checkpointing: bool = False) -> Relaxed:
    """The control for both stages: blank tokens stand in the spans, and the hidden states before them lead nowhere."""
    hidden = text_forward(backbone, batch, checkpointing=checkpointing)
    return Relaxed(hidden, _rolled_out(batch, hidden))


def grounding_forward(
    backbone: Backbone,
    batch: LatentBatch,
    compression: Compression,
    *,
    checkpointing: bool = False,
    blank: bool = False,
    horizon: int = 1,
) -> Grounded:
    """Stage 1: the compressed auxiliary images are fed at the latent positions. Paper, Eq. 2.

    ``blank``: the embedding of latent_pad is fed instead, and the images are only what is to be predicted.
    ``horizon``: how many latents in a row are predicted before a target is fed again, those between being the model's
    own, under gradient; 1: the paper; from K on all are its own. InputError without one auxiliary image a span, for
    spans of different lengths, for more latents than patches, and for a horizon in a batch that is not aligned.
    """
    images = image_features(backbone, batch, checkpointing=checkpointing)
    embedded = backbone.embed(batch.input_ids, images)
    targets = target_latents(backbone, batch, compression).to(embedded.tokens.dtype)
    merged = [backbone.merged(image) for image in images]
    if horizon > 1 and not blank:
        _check_aligned(batch)
        led = _Led(targets, horizon)
        hidden = roll_out(backbone, embedded, batch, checkpointing=checkpointing, disturb=led)
        return Grounded(hidden, _rolled_out(batch, hidden), targets, merged)
    columns = _span_columns(batch)
    if not blank:
        embedded = _fed(embedded, batch, columns, targets)
    hidden = one_pass(backbone, embedded, batch, checkpointing=checkpointing)
    predicted = hidden[batch.span_rows[:, None], columns - 1]
    return Grounded(hidden, predicted, targets, merged)


@dataclass(frozen=True, slots=True)
class _Led:
    """Feeds latents as they were rolled out, but targets [S, K, D] in the place of every so many: a ``Disturb``."""

    targets: Tensor
    horizon: int

    def __call__(self, latents: Tensor, numbers: Tensor) -> Tensor:
        length = self.targets.shape[1]
        if self.horizon >= length:
            return latents
        lead = (numbers % length + 1) % self.horizon == 0
        return torch.where(lead[:, None], self.targets.flatten(0, 1).index_select(0, numbers).to(latents), latents)


def relaxed_forward(
    backbone: Backbone, batch: LatentBatch, checkpointing: bool = False, *, disturb: Disturb | None = None
) -> Relaxed:
    """Stage 2: every latent is the hidden state one token earlier, with gradient. Paper, Eq. 4.

    One pass for each segment, whose last column gives the first latent, and one for each latent but a block's
    last, which goes with the next segment: k + 1 passes for one span. ``disturb``: what becomes of latents before they
    are fed. InputError for a batch that is not aligned.
    """
    _check_aligned(batch)
    embedded = _embedded(backbone, batch, checkpointing)
    hidden = roll_out(backbone, embedded, batch, checkpointing=checkpointing, disturb=disturb)
    return Relaxed(hidden, _rolled_out(batch, hidden))


def _check_aligned(batch: LatentBatch) -> None:
    if len(batch.span_rows) and not batch.aligned:
        raise InputError("Rolling latents out needs spans in shared columns: collate with align=True.")


def replayed_forward(
    backbone: Backbone, batch: LatentBatch, latents: Sequence[Tensor], *, checkpointing: bool = False
) -> Tensor:
    """Hidden states [B, T, D] with recorded latents ([k_s, D] a span, in the order of batch.span_rows) as constants.

    One parallel pass: cheaper than relaxed_forward, and biased, since no gradient flows through the latents.
    """
    embedded = _replayed(_embedded(backbone, batch, checkpointing), batch, latents)
    return one_pass(backbone, embedded, batch, checkpointing=checkpointing)


def answers_forward(
    backbone: Backbone,
    batch: AnswerBatch,
    latents: Sequence[Tensor] | None = None,
    *,
    checkpointing: bool = False,
    blank: bool = False,
) -> Tensor:
    """Hidden states [B, T, D] of ``batch.answers``; every prompt is encoded once for all its answers, under gradient.

    Latents are rolled out as by ``relaxed_forward``, or, where ``latents`` are given, fed as by ``replayed_forward``;
    ``blank``: neither, but the embedding of latent_pad.
    """
    prompts, answers = batch.prompts, batch.answers
    embedded = _embedded(backbone, prompts, checkpointing)
    prefix = prefix_pass(backbone, embedded, prompts, batch.owners, checkpointing=checkpointing)
    embedded = _embedded(backbone, answers, checkpointing)
    if latents is None and not blank:
        return roll_out(backbone, embedded, answers, checkpointing=checkpointing, prefix=prefix)
    if latents is not None and not blank:
        embedded = _replayed(embedded, answers, latents)
    return one_pass(backbone, embedded, answers, checkpointing=checkpointing, prefix=prefix)


def _replayed(embedded: Embedded, batch: LatentBatch, latents: Sequence[Tensor]) -> Embedded:
    """Embeddings with recorded latents in their places; InputError where they are not those of the spans."""
    lengths = [len(latent) for latent in latents]
    if lengths != batch.span_lengths.tolist():
        raise InputError(f"Recorded latents of lengths {lengths} for spans of {batch.span_lengths.tolist()}.")
    if not lengths:
        return embedded
    flat = torch.cat(list(latents)).to(embedded.tokens).detach()
    rows = batch.span_rows.repeat_interleave(batch.span_lengths)
    offsets = torch.cat([torch.arange(length) for length in lengths]).to(rows.device)
    columns = batch.span_starts.repeat_interleave(batch.span_lengths) + offsets
    return _read_again(embedded.fed(rows, columns, flat), batch)


def _read_again(embedded: Embedded, batch: LatentBatch) -> Embedded:
    """Embeddings with the latents also where they are read again."""
    if batch.bottleneck != "latent_only":
        return embedded
    rows, columns = (batch.zones == Zone.READ).nonzero(as_tuple=True)
    return embedded.fed(rows, columns, embedded.tokens[batch.zones == Zone.LATENT])


def _rolled_out(batch: LatentBatch, hidden: Tensor) -> Tensor:
    """Latents [S, K, D] of a rollout: each is the hidden state one column earlier."""
    if not len(batch.span_rows):
        return hidden.new_empty(0, 0, hidden.shape[-1])
    # Where spans are aligned their blocks tell K, and a GPU need not be asked.
    longest = max(block.width for block in batch.blocks) if batch.blocks else int(batch.span_lengths.max())
    widest = torch.arange(longest, device=hidden.device)
    columns = (batch.span_starts[:, None] - 1 + widest).clamp(max=hidden.shape[1] - 1)
    return hidden[batch.span_rows[:, None], columns]


def _embedded(backbone: Backbone, batch: LatentBatch, checkpointing: bool = False) -> Embedded:
    return backbone.embed(batch.input_ids, image_features(backbone, batch, checkpointing=checkpointing))


def image_features(backbone: Backbone, batch: LatentBatch, *, checkpointing: bool = False) -> list[Tensor]:
    """Features [n_i, F] of the input images: computed beforehand, or from their pixels."""
    known = list(batch.image_features)
    return known or backbone.image_features(batch.pixel_values, batch.grid_thw, checkpointing=checkpointing)


def target_latents(backbone: Backbone, batch: LatentBatch, compression: Compression) -> Tensor:
    """Target latents [S, K, D], detached: they are a teacher, even where the vision tower is trained.

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
        return compress_all(kept_of(merged, batch.auxiliary_kept), lengths.pop(), compression)


def kept_of(images: Sequence[Tensor], kept: Sequence[Tensor]) -> list[Tensor]:
    """Of images [n_i, D] the patches that targets are made of, told for each of them [n_i] on the CPU; empty: all."""
    if not kept:
        return list(images)
    # By their numbers: a mask on a GPU would have to be waited for, image after image.
    numbers = [chosen.nonzero()[:, 0] for chosen in kept]
    return [
        image.index_select(0, rows.to(image.device, non_blocking=True))
        for image, rows in zip(images, numbers, strict=True)
    ]


def _span_columns(batch: LatentBatch) -> Tensor:
    """Columns [S, K] of the latents of spans of one length."""
    length = int(batch.span_lengths[0]) if len(batch.span_lengths) else 0
    return batch.span_starts[:, None] + torch.arange(length, device=batch.span_starts.device)


def _fed(embedded: Embedded, batch: LatentBatch, columns: Tensor, latents: Tensor) -> Embedded:
    """Embeddings with ``latents`` [S, K, D] in their columns [S, K]."""
    if not len(latents):
        return embedded
    return _read_again(embedded.fed(batch.span_rows[:, None], columns, latents), batch)
