"""Collate examples into a batch whose latent spans share columns.

The columns are [text 0 | K latents | text 1 | K latents | ... | tail]. A row's text before its first span is
right-aligned in text 0, its latents are left-aligned in the first block of latents, and so on; the text after its last
span continues to the right. Rows with fewer spans use the first blocks, and their text continues through the others.
Padding is masked and positions are those of the unpadded row, so a row gives the same result in every batch.
Legend: B rows, T columns, S spans of the batch, N images, n tokens of all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.latent.bottleneck import Bottleneck, SegmentedRows, assign_segments
from mirage_core.latent.examples import IGNORED, EncodedExample, EncodedPrompt, no_grids, no_pixels, no_tokens
from mirage_core.latent.spans import FlatTokens, Ints, Spans, find_spans, flatten, no_spans, with_span_tokens
from mirage_core.latent.tokens import TokenIds

Positions = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(ids [n] of all rows, concatenated, row lengths [B], grid_thw [N, 3]) -> positions [3, n] of the model."""

_CPU_FIELDS = ("grid_thw", "auxiliary_grid_thw")  # Python code reads them


@dataclass(frozen=True, slots=True)
class SpanBlock:
    """The columns of one block of latents: its first column, and the largest number of latents a row has in it."""

    start: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentBatch:
    """Rows of tokens with their latent spans, in the columns that the module docstring describes.

    ``labels`` [B, T] are shifted: the id that the hidden state AT a column must predict, else IGNORED (the next token
    of a row need not be in the next column). ``span_rows``, ``span_starts``, ``span_lengths``, ``span_blocks`` [S]:
    row, first latent column, number of latents and block of each span, row by row. ``blocks`` is empty if the batch is
    not aligned or has no span. ``causal``: all padding is right of the row's tokens, so that plain causal attention is
    exact without a bottleneck. ``image_rows`` [N]: the row of each input image; grids stay on the CPU.
    ``image_features``, ``auxiliary_features``: features [n_i, F] of each image (F: backbone.feature_size) if they are
    precomputed (frozen vision tower); pixels are then ignored. ``auxiliary_patch_masks``: the merged patches [n_i] of
    each auxiliary image that its targets average, on the CPU; empty: all. ``segments`` [B, T]: values of Segment,
    which decide attention under a ``bottleneck``; BEFORE in rows without one. The reencoded latents of a span
    (latent_only) are in the columns right after it, at the positions of its latents. ``region_tokens`` [n]: the image
    token that each latent is held to, as an index into all image tokens of the batch; empty: none. ``observed`` [B, T]:
    the columns of observed tokens; ``observed_labels`` [B, T]: the columns that predict one; None where no example
    marks any.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor
    segments: Tensor
    bottleneck: Bottleneck
    blocks: tuple[SpanBlock, ...]
    aligned: bool
    causal: bool
    span_rows: Tensor
    span_starts: Tensor
    span_lengths: Tensor
    span_blocks: Tensor
    pixel_values: Tensor
    grid_thw: Tensor
    image_rows: Tensor
    auxiliary_pixel_values: Tensor
    auxiliary_grid_thw: Tensor
    image_features: tuple[Tensor, ...] = ()
    auxiliary_features: tuple[Tensor, ...] = ()
    auxiliary_patch_masks: tuple[Tensor, ...] = ()
    region_tokens: Tensor = field(default_factory=no_tokens)
    observed: Tensor | None = None
    observed_labels: Tensor | None = None

    @property
    def rows(self) -> int:
        """B."""
        return self.input_ids.shape[0]

    def to(self, device: torch.device | str) -> LatentBatch:
        """The batch on ``device``; grids and patch masks stay on the CPU."""
        tensors = {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        moved: dict[str, Any] = {k: v.to(device, non_blocking=True) for k, v in tensors.items() if k not in _CPU_FIELDS}
        return replace(
            self,
            **moved,
            image_features=tuple(features.to(device, non_blocking=True) for features in self.image_features),
            auxiliary_features=tuple(features.to(device, non_blocking=True) for features in self.auxiliary_features),
        )


def collate(
    examples: Sequence[EncodedExample],
    ids: TokenIds,
    positions: Positions,
    *,
    align: bool = True,
    bottleneck: Bottleneck = "none",
    bottleneck_rows: Sequence[bool] | None = None,
    span_tokens: Sequence[int] = (),
) -> LatentBatch:
    """Collate examples. ``positions``: ``backbone.position_ids``.

    With ``align`` False rows are only padded on the right: sufficient, and faster, wherever latents are inputs and not
    rolled out (plain text, grounding, replay). ``bottleneck_rows`` [B]: the rows with the ``bottleneck``; None: all.
    ``span_tokens``: tokens in the place of latent_pad, by number in a span (TokenIds.in_span). InputError for an empty
    batch, a latent_pad outside a span, auxiliary images or region tokens that do not match the spans,
    ``bottleneck_rows`` that do not match the examples, or a span longer than ``span_tokens``.
    """
    _check_rows(examples)
    flat = flatten([example.ids for example in examples])
    spans = find_spans(flat, ids)
    _check_auxiliary(examples, flat, spans)
    flat = with_span_tokens(flat, spans, span_tokens) if span_tokens else flat
    segmented = assign_segments(flat, spans, bottleneck, ids, bottleneck_rows)
    if align:
        columns, blocks, width = _align(segmented.flat, segmented.spans)
    else:
        columns, blocks, width = segmented.flat.offsets, (), int(segmented.flat.lengths.max())
    labels = torch.cat([example.labels for example in examples]).numpy()
    return LatentBatch(
        **_token_fields(flat, segmented, columns, width, ids, positions, examples),
        labels=torch.from_numpy(_shifted_labels(flat, columns[segmented.own], width, labels)),
        bottleneck=bottleneck,
        blocks=blocks,
        aligned=align,
        causal=bool((columns == segmented.flat.offsets).all()),
        span_rows=torch.from_numpy(flat.rows[spans.first]),
        span_starts=torch.from_numpy(columns[segmented.spans.first]),
        span_lengths=torch.from_numpy(spans.lengths),
        span_blocks=torch.from_numpy(spans.index),
        **_auxiliary_fields(examples),
        region_tokens=_region_tokens(examples, flat, spans, ids),
        **_observed_fields(examples, flat, columns[segmented.own], width),
    )


def collate_prompts(
    prompts: Sequence[EncodedPrompt], ids: TokenIds, positions: Positions, *, bottleneck: Bottleneck = "none"
) -> LatentBatch:
    """Collate prompts for decoding: padded on the left, no span, no label. InputError for latents in a prompt."""
    _check_rows(prompts)
    flat = flatten([prompt.ids for prompt in prompts])
    if (flat.ids == ids.latent_pad).any():
        raise InputError("A prompt contains latent_pad tokens. End it in latent_start; decoding generates the latents.")
    width = int(flat.lengths.max())
    columns = flat.offsets + (width - flat.lengths)[flat.rows]
    none = torch.empty(0, dtype=torch.long)
    return LatentBatch(
        **_token_fields(
            flat, assign_segments(flat, no_spans(), bottleneck, ids), columns, width, ids, positions, prompts
        ),
        labels=torch.full((len(prompts), width), IGNORED),
        bottleneck=bottleneck,
        blocks=(),
        aligned=True,
        causal=bool((flat.lengths == width).all()),
        span_rows=none,
        span_starts=none,
        span_lengths=none,
        span_blocks=none,
        **_auxiliary_fields(()),
    )


def _align(flat: FlatTokens, spans: Spans) -> tuple[Ints, tuple[SpanBlock, ...], int]:
    """Return the column of each token [n], the blocks of latents, and the width of the batch."""
    columns = np.empty_like(flat.offsets)
    row_starts = np.cumsum(flat.lengths) - flat.lengths
    placed = np.zeros_like(flat.lengths)  # tokens of each row that have a column
    blocks: list[SpanBlock] = []
    edge = 0
    for block in range(int(spans.index.max()) + 1 if len(spans.index) else 0):
        in_block = spans.index == block
        rows, first, lengths = flat.rows[spans.first[in_block]], spans.first[in_block], spans.lengths[in_block]
        before = first - row_starts[rows] - placed[rows]
        start = edge + int(before.max())
        shift = np.full_like(flat.lengths, edge)  # text of rows without a span in this block continues
        shift[rows] = start - before
        until = np.minimum(flat.lengths, placed + (start - edge))
        until[rows] = placed[rows] + before
        _assign_columns(columns, flat, placed, until, shift)
        placed = until
        shift[rows], until = start, placed.copy()
        until[rows] += lengths
        _assign_columns(columns, flat, placed, until, shift)
        placed = until
        blocks.append(SpanBlock(start, int(lengths.max())))
        edge = start + blocks[-1].width
    _assign_columns(columns, flat, placed, flat.lengths, np.full_like(flat.lengths, edge))
    return columns, tuple(blocks), edge + int((flat.lengths - placed).max())


def _assign_columns(columns: Ints, flat: FlatTokens, begin: Ints, end: Ints, first_column: Ints) -> None:
    """Assign the columns from ``first_column`` on to tokens [begin, end) of every row, in place."""
    selected = (flat.offsets >= begin[flat.rows]) & (flat.offsets < end[flat.rows])
    rows = flat.rows[selected]
    columns[selected] = flat.offsets[selected] - begin[rows] + first_column[rows]


def _token_fields(
    flat: FlatTokens,
    segmented: SegmentedRows,
    columns: Ints,
    width: int,
    ids: TokenIds,
    positions: Positions,
    encoded: Sequence[EncodedExample] | Sequence[EncodedPrompt],
) -> dict[str, Any]:
    """Ids, mask, positions and segments in their columns, and the images of all rows, concatenated."""
    rows, cells = len(flat.lengths), (segmented.flat.rows, columns)
    grid = torch.cat([row.grid_thw for row in encoded])
    input_ids = np.full((rows, width), ids.pad, dtype=np.int64)
    input_ids[cells] = segmented.flat.ids
    mask = np.zeros((rows, width), dtype=bool)
    mask[cells] = True
    segments = np.zeros((rows, width), dtype=np.uint8)
    segments[cells] = segmented.segments
    position_ids = np.zeros((3, rows, width), dtype=np.int64)
    flat_positions = positions(torch.from_numpy(flat.ids), torch.from_numpy(flat.lengths), grid)
    position_ids[:, *cells] = flat_positions.numpy()[:, segmented.source]
    images = torch.tensor([len(row.grid_thw) for row in encoded])
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(mask),
        "position_ids": torch.from_numpy(position_ids),
        "segments": torch.from_numpy(segments),
        "pixel_values": _cat_pixels([row.pixel_values for row in encoded]),
        "grid_thw": grid,
        "image_rows": torch.repeat_interleave(torch.arange(rows), images),
        "image_features": _batch_features([row.image_features for row in encoded], len(grid)),
    }


def _shifted_labels(flat: FlatTokens, columns: Ints, width: int, labels: Ints) -> Ints:
    """Each label at the column of the token before it in its row [B, T]; a row's first token has none."""
    shifted = np.full((len(flat.lengths), width), IGNORED, dtype=np.int64)
    predicted = np.flatnonzero(flat.offsets > 0)
    shifted[flat.rows[predicted], columns[predicted - 1]] = labels[predicted]
    return shifted


def _observed_fields(examples: Sequence[EncodedExample], flat: FlatTokens, columns: Ints, width: int) -> dict[str, Any]:
    """The columns of observed tokens, and those that predict them; nothing where no example marks any."""
    marks = [example.observed for example in examples]
    if all(mark is None for mark in marks):
        return {}
    lengths = flat.lengths.tolist()
    rows = [torch.zeros(n, dtype=torch.bool) if mark is None else mark for mark, n in zip(marks, lengths, strict=True)]
    marked = torch.cat(rows).numpy()
    observed = np.zeros((len(lengths), width), dtype=bool)
    observed[flat.rows, columns] = marked
    predicting = _shifted_labels(flat, columns, width, np.where(marked, 1, IGNORED)) == 1
    return {"observed": torch.from_numpy(observed), "observed_labels": torch.from_numpy(predicting)}


def _auxiliary_fields(examples: Sequence[EncodedExample]) -> dict[str, Any]:
    """Pixels or features of the auxiliary images of all rows, concatenated."""
    grids = torch.cat([no_grids(), *(example.auxiliary_grid_thw for example in examples)])
    return {
        "auxiliary_pixel_values": _cat_pixels([example.auxiliary_pixel_values for example in examples]),
        "auxiliary_grid_thw": grids,
        "auxiliary_features": _batch_features([example.auxiliary_features for example in examples], len(grids)),
        "auxiliary_patch_masks": tuple(mask for example in examples for mask in example.auxiliary_patch_masks),
    }


def _region_tokens(examples: Sequence[EncodedExample], flat: FlatTokens, spans: Spans, ids: TokenIds) -> Tensor:
    """The region tokens of all rows as indices into the batch's image tokens [n]; empty where no row has any.

    InputError unless every latent of the batch has one, or none has.
    """
    tokens = np.array([len(example.region_tokens) for example in examples])
    latents = np.bincount(flat.rows[spans.latents], minlength=len(examples))
    if not tokens.any():
        return no_tokens()
    if (tokens != latents).any():
        row = int(np.flatnonzero(tokens != latents)[0])
        raise InputError(f"Row {row} has {tokens[row]} region tokens for {latents[row]} latents; give one a latent.")
    images = np.bincount(flat.rows[flat.ids == ids.image_pad], minlength=len(examples))
    begins = np.cumsum(images) - images
    return torch.cat([example.region_tokens + int(begin) for example, begin in zip(examples, begins, strict=True)])


def _batch_features(features: Sequence[tuple[Tensor, ...]], images: int) -> tuple[Tensor, ...]:
    """Precomputed features of all images of a batch, or of none."""
    by_image = tuple(image for row in features for image in row)
    if by_image and len(by_image) != images:
        raise InputError(
            f"{len(by_image)} of {images} images of a batch have features, the others pixels; pass all of them to "
            "with_features, or none."
        )
    return by_image


def _cat_pixels(pixels: Sequence[Tensor]) -> Tensor:
    """Patches of all images [P, C]; rows without any are skipped."""
    present = [patches for patches in pixels if len(patches)]
    return torch.cat(present) if present else no_pixels()


def _check_rows(rows: Sequence[EncodedExample] | Sequence[EncodedPrompt]) -> None:
    if not rows:
        raise InputError("Cannot collate an empty batch; give at least one row.")
    lengths = [len(row.ids) for row in rows]
    empty = [index for index, length in enumerate(lengths) if not length]
    if empty:
        raise InputError(f"Rows {empty} have no token.")


def _check_auxiliary(examples: Sequence[EncodedExample], flat: FlatTokens, spans: Spans) -> None:
    """InputError unless every row has one auxiliary image a span, or no row has any."""
    images = np.array([len(example.auxiliary_grid_thw) for example in examples])
    num_spans = np.bincount(flat.rows[spans.first], minlength=len(examples))
    if images.any() and (images != num_spans).any():
        row = int(np.flatnonzero(images != num_spans)[0])
        raise InputError(
            f"Row {row} has {images[row]} auxiliary images for {num_spans[row]} latent spans; give one image a span."
        )
