"""Forward passes with latents: given as targets, rolled out with gradient, or replayed.

Legend: B rows, T columns, S spans, K latents of the longest span, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.latent.compress import Compression, compress_all
from mirage_core.latent.layout import LatentBatch, SpanBlock
from mirage_core.model.backbone import Backbone, Rotary
from mirage_core.model.cache import GrowingCache


@dataclass(frozen=True, slots=True)
class Grounded:
    """Stage 1: hidden [B, T, D], predicted [S, K, D] (hidden one token earlier), targets [S, K, D] (detached),
    and ``image_features`` of the input images (one [n_i, D] an image)."""

    hidden: Tensor
    predicted: Tensor
    targets: Tensor
    image_features: list[Tensor]


@dataclass(frozen=True, slots=True)
class Relaxed:
    """Stage 2: hidden [B, T, D], and the latents [S, K, D] that were fed, in the order of batch.span_rows.

    Where a span is shorter than K, its last rows mean nothing.
    """

    hidden: Tensor
    latents: Tensor


def text_forward(backbone: Backbone, batch: LatentBatch) -> Tensor:
    """Hidden states [B, T, D] of an ordinary pass; latent pads, if any, are embedded as ordinary tokens."""
    return _one_pass(backbone, batch, _embedded(backbone, batch))


def grounding_forward(
    backbone: Backbone, batch: LatentBatch, compression: Compression, *, checkpointing: bool = False
) -> Grounded:
    """Stage 1: the compressed auxiliary images are fed at the latent positions. Paper, Eq. 2.

    InputError without one auxiliary image a span, for spans of different lengths, and for more latents than patches.
    """
    images = image_features(backbone, batch)
    embedded = backbone.embed(batch.input_ids, images)
    targets = _targets(backbone, batch, compression).to(embedded.dtype)
    columns = _span_columns(batch)
    embedded = _fed(embedded, batch, columns, targets)
    hidden = _one_pass(backbone, batch, embedded, checkpointing=checkpointing)
    predicted = hidden[batch.span_rows[:, None], columns - 1]
    return Grounded(hidden, predicted, targets, images)


def relaxed_forward(backbone: Backbone, batch: LatentBatch, checkpointing: bool = False) -> Relaxed:
    """Stage 2: every latent is the hidden state one token earlier, with gradient. Paper, Eq. 4.

    One pass for each segment, whose last column gives the first latent, and one for each latent but a block's
    last, which goes with the next segment: k + 1 passes for one span. InputError for a batch that is not aligned.
    """
    if len(batch.span_rows) and not batch.aligned:
        raise InputError("Rolling latents out needs spans in shared columns: collate with align=True.")
    passes = _Passes(backbone, batch, checkpointing)
    latents = [_roll_block(passes, block) for block in batch.blocks]
    passes.text(batch.input_ids.shape[1])
    return Relaxed(torch.cat(passes.hidden, dim=1), _by_span(batch, latents, backbone.hidden_size))


def replayed_forward(backbone: Backbone, batch: LatentBatch, latents: Sequence[Tensor]) -> Tensor:
    """Hidden states [B, T, D] with recorded latents ([k_s, D] a span, in the order of batch.span_rows) as constants.

    One parallel pass: cheaper than relaxed_forward, and biased, since no gradient flows through the latents.
    """
    lengths = [len(latent) for latent in latents]
    if lengths != batch.span_lengths.tolist():
        raise InputError(f"Recorded latents of lengths {lengths} for spans of {batch.span_lengths.tolist()}.")
    embedded = _embedded(backbone, batch)
    if lengths:
        flat = torch.cat(list(latents)).to(embedded.device, embedded.dtype).detach()
        rows = batch.span_rows.repeat_interleave(batch.span_lengths)
        offsets = torch.cat([torch.arange(length) for length in lengths]).to(embedded.device)
        columns = batch.span_starts.repeat_interleave(batch.span_lengths) + offsets
        embedded = embedded.index_put((rows, columns), flat)
    return _one_pass(backbone, batch, embedded)


def allowed_attention(attention_mask: Tensor) -> Tensor:
    """Which column may attend to which [B, 1, T, T]: earlier tokens of its row, and itself (so no row is empty)."""
    columns = attention_mask.shape[1]
    causal = torch.ones(columns, columns, dtype=torch.bool, device=attention_mask.device).tril()
    itself = torch.eye(columns, dtype=torch.bool, device=attention_mask.device)
    return ((causal & attention_mask[:, None, :]) | itself)[:, None]


class _Passes:
    """Cached passes over the columns of a batch from left to right, each with its slice of mask and rotation."""

    def __init__(self, backbone: Backbone, batch: LatentBatch, checkpointing: bool) -> None:
        self._backbone, self._checkpointing = backbone, checkpointing
        self._embedded = _embedded(backbone, batch)
        self._rotary = backbone.rotary(batch.position_ids)
        self._causal = batch.causal
        only_pass = not batch.blocks and batch.causal
        self._bias = None if only_pass else backbone.attention_bias(allowed_attention(batch.attention_mask))
        self._cache = GrowingCache() if batch.blocks else None
        self._column = 0
        self._pending: Tensor | None = None
        self.hidden: list[Tensor] = []

    def text(self, until: int) -> None:
        """Columns up to ``until``, a pending latent first."""
        begin = self._column + (self._pending is not None)
        embedded = self._embedded[:, begin:until]
        if self._pending is not None:
            embedded = torch.cat([self._pending, embedded], dim=1)
            self._pending = None
        if embedded.shape[1]:
            self._run(embedded)

    def last(self) -> Tensor:
        """The hidden state of the last column [B, 1, D]."""
        return self.hidden[-1][:, -1:]

    def latent(self, latent: Tensor) -> None:
        """One latent as the next column."""
        self._run(latent)

    def hold(self, latent: Tensor) -> None:
        """A latent that goes with the next text."""
        self._pending = latent

    def _run(self, embedded: Tensor) -> None:
        begin, end = self._column, self._column + embedded.shape[1]
        rotary: Rotary = (self._rotary[0][:, begin:end], self._rotary[1][:, begin:end])
        hidden = self._backbone.hidden(
            embedded, rotary, self._slice(begin, end), self._cache, checkpointing=self._checkpointing
        )
        self.hidden.append(hidden)
        self._column = end

    def _slice(self, begin: int, end: int) -> Tensor | None:
        plain = self._causal and (begin == 0 or end - begin == 1)
        return None if plain or self._bias is None else self._bias[:, :, begin:end, :end]


def _roll_block(passes: _Passes, block: SpanBlock) -> Tensor:
    """The text before a block, then its latents [B, K, D]."""
    passes.text(block.start)
    latents = [passes.last()]
    for _ in range(block.width - 1):
        passes.latent(latents[-1])
        latents.append(passes.last())
    passes.hold(latents[-1])
    return torch.cat(latents, dim=1)


def _by_span(batch: LatentBatch, blocks: list[Tensor], hidden_size: int) -> Tensor:
    """Latents of all blocks as [S, K, D], in the order of batch.span_rows."""
    if not blocks:
        return torch.empty(0, 0, hidden_size, device=batch.input_ids.device)
    widest = max(block.shape[1] for block in blocks)
    padded = [torch.nn.functional.pad(block, (0, 0, 0, widest - block.shape[1])) for block in blocks]
    return torch.stack(padded, dim=1)[batch.span_rows, batch.span_blocks]


def _one_pass(backbone: Backbone, batch: LatentBatch, embedded: Tensor, *, checkpointing: bool = False) -> Tensor:
    """All columns at once; without padding on the left, plain causal attention is exact and faster."""
    bias = None if batch.causal else backbone.attention_bias(allowed_attention(batch.attention_mask))
    return backbone.hidden(embedded, backbone.rotary(batch.position_ids), bias, checkpointing=checkpointing)


def _embedded(backbone: Backbone, batch: LatentBatch) -> Tensor:
    return backbone.embed(batch.input_ids, image_features(backbone, batch))


def image_features(backbone: Backbone, batch: LatentBatch) -> list[Tensor]:
    """Features [n_i, D] of the input images: computed beforehand, or from their pixels."""
    return list(batch.image_features) or backbone.image_features(batch.pixel_values, batch.grid_thw)


def _targets(backbone: Backbone, batch: LatentBatch, compression: Compression) -> Tensor:
    """Target latents [S, K, D], detached: they are a teacher, even where the vision tower is trained."""
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
        return compress_all(features, lengths.pop(), compression)


def _span_columns(batch: LatentBatch) -> Tensor:
    """Columns [S, K] of the latents of spans of one length."""
    length = int(batch.span_lengths[0]) if len(batch.span_lengths) else 0
    return batch.span_starts[:, None] + torch.arange(length, device=batch.span_starts.device)


def _fed(embedded: Tensor, batch: LatentBatch, columns: Tensor, latents: Tensor) -> Tensor:
    """Embeddings with ``latents`` [S, K, D] in their columns [S, K]."""
    if not len(latents):
        return embedded
    return embedded.index_put((batch.span_rows[:, None], columns), latents)
