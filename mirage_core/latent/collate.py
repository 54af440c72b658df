"""Lay examples out in a batch whose latent spans share columns.

The columns are blocks: [segment 0 | K latents | segment 1 | K latents | ... | tail]. A row's text before
its first span ends at the right edge of segment 0, its latents start at the left edge of the block, and so
on; what is left after its last span runs on to the right. Rows with fewer spans use the first blocks and let
their text run through the others. Padding is masked and positions are those of the unpadded row, so a row
means the same in every batch. Legend: B rows, T columns, S spans of the batch, N images, n tokens of all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.latent.bottleneck import Bottleneck, Zoned, in_zones
from mirage_core.latent.examples import IGNORED, EncodedExample, EncodedPrompt, no_grids, no_pixels
from mirage_core.latent.spans import Flat, Ints, Spans, find_spans, flatten, no_spans
from mirage_core.latent.tokens import TokenIds

Positions = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(ids [n] of all rows end to end, row lengths [B], grid_thw [N, 3]) -> positions [3, n] of the model."""

_STAY = ("grid_thw", "auxiliary_grid_thw")  # planned with in Python, so they stay on the CPU


@dataclass(frozen=True, slots=True)
class SpanBlock:
    """The columns of one latent block: its first column, and the most latents a row has in it."""

    start: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentBatch:
    """Rows of tokens with their latent spans; columns as the module's docstring says.

    ``labels`` [B, T] are already shifted: the id that the hidden state AT a column must predict, else
    IGNORED (the next token of a row need not stand in the next column). ``span_rows``,
    ``span_starts``, ``span_lengths``, ``span_blocks`` [S] tell each span's row, first latent column, number
    of latents, and block, row by row. ``blocks`` is empty when the batch was not aligned, or has no
    span. ``causal`` is True when padding stands only right of each row's tokens, so that, but for a bottleneck, plain
    causal attention is exact. Grids stay on the CPU; ``image_rows`` [N] is the row of each input image.
    ``image_features``, ``auxiliary_features``: features [n_i, F] of each image (F: backbone.feature_size) where they
    are known already (a frozen vision tower); the pixels are then not looked at. ``auxiliary_kept``: which merged
    patches [n_i] of each auxiliary image its targets are made of, on the CPU; empty: all. ``zones`` [B, T]: values of
    Zone, by which ``bottleneck`` tells what may attend to what; BEFORE throughout rows that it does not concern. Where
    a row's latents are read again (latent_only), these columns stand behind the span, at the positions of its latents.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor
    zones: Tensor
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
    auxiliary_kept: tuple[Tensor, ...] = ()

    @property
    def rows(self) -> int:
        """B."""
        return self.input_ids.shape[0]

    def to(self, device: torch.device | str) -> LatentBatch:
        """The batch on ``device``; grids, and which patches are kept, stay where they are."""
        tensors = {f.name: v for f in fields(self) if isinstance(v := getattr(self, f.name), Tensor)}
        moved: dict[str, Any] = {k: v.to(device, non_blocking=True) for k, v in tensors.items() if k not in _STAY}
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
    under: Sequence[bool] | None = None,
) -> LatentBatch:
    """Lay out examples. ``positions``: ``backbone.position_ids``.

    With ``align`` False rows are only padded on the right: enough, and faster, wherever latents are
    given rather than rolled out (plain text, grounding, replay). ``under`` [B]: the rows that are under the
    ``bottleneck``; None: all. InputError for an empty batch, a latent_pad outside a span, auxiliary images that do not
    match the spans, or an ``under`` that does not match the examples.
    """
    _check(examples)
    flat = flatten([example.ids for example in examples])
    spans = find_spans(flat, ids)
    _check_auxiliary(examples, flat, spans)
    laid = in_zones(flat, spans, bottleneck, under)
    columns, blocks, width = _align(laid.flat, laid.spans) if align else _pad_right(laid.flat)
    labels = torch.cat([example.labels for example in examples]).numpy()
    return LatentBatch(
        **_place(flat, laid, columns, width, ids, positions, examples),
        labels=torch.from_numpy(_shifted_labels(flat, columns[laid.own], width, labels)),
        bottleneck=bottleneck,
        blocks=blocks,
        aligned=align,
        causal=bool((columns == laid.flat.offsets).all()),
        span_rows=torch.from_numpy(flat.rows[spans.first]),
        span_starts=torch.from_numpy(columns[laid.spans.first]),
        span_lengths=torch.from_numpy(spans.lengths),
        span_blocks=torch.from_numpy(spans.index),
        **_auxiliary(examples),
    )


def collate_prompts(prompts: Sequence[EncodedPrompt], ids: TokenIds, positions: Positions) -> LatentBatch:
    """Lay out prompts for decoding: padded on the left, no span, no label. InputError for latents in a prompt."""
    _check(prompts)
    flat = flatten([prompt.ids for prompt in prompts])
    if (flat.ids == ids.latent_pad).any():
        raise InputError("A prompt holds latent_pad tokens. End it in latent_start, and decoding supplies the latents.")
    width = int(flat.lengths.max())
    columns = flat.offsets + (width - flat.lengths)[flat.rows]
    none = torch.empty(0, dtype=torch.long)
    return LatentBatch(
        **_place(flat, in_zones(flat, no_spans(), "none"), columns, width, ids, positions, prompts),
        labels=torch.full((len(prompts), width), IGNORED),
        bottleneck="none",
        blocks=(),
        aligned=True,
        causal=bool((flat.lengths == width).all()),
        span_rows=none,
        span_starts=none,
        span_lengths=none,
        span_blocks=none,
        **_auxiliary(()),
    )


def _pad_right(flat: Flat) -> tuple[Ints, tuple[SpanBlock, ...], int]:
    return flat.offsets, (), int(flat.lengths.max())


def _align(flat: Flat, spans: Spans) -> tuple[Ints, tuple[SpanBlock, ...], int]:
    """The column of each token [n], the latent blocks, and the width of the batch."""
    columns = np.empty_like(flat.offsets)
    row_starts = np.cumsum(flat.lengths) - flat.lengths
    placed = np.zeros_like(flat.lengths)  # tokens of each row that have their column
    blocks: list[SpanBlock] = []
    edge = 0
    for block in range(int(spans.index.max()) + 1 if len(spans.index) else 0):
        here = spans.index == block
        rows, first, lengths = flat.rows[spans.first[here]], spans.first[here], spans.lengths[here]
        before = first - row_starts[rows] - placed[rows]
        start = edge + int(before.max())
        shift = np.full_like(flat.lengths, edge)  # rows without a span here simply run on
        shift[rows] = start - before
        until = np.minimum(flat.lengths, placed + (start - edge))
        until[rows] = placed[rows] + before
        _put(columns, flat, placed, until, shift)
        placed = until
        shift[rows], until = start, placed.copy()
        until[rows] += lengths
        _put(columns, flat, placed, until, shift)
        placed = until
        blocks.append(SpanBlock(start, int(lengths.max())))
        edge = start + blocks[-1].width
    _put(columns, flat, placed, flat.lengths, np.full_like(flat.lengths, edge))
    return columns, tuple(blocks), edge + int((flat.lengths - placed).max())


def _put(columns: Ints, flat: Flat, begin: Ints, end: Ints, first_column: Ints) -> None:
    """Give tokens [begin, end) of every row the columns from ``first_column`` on."""
    chosen = (flat.offsets >= begin[flat.rows]) & (flat.offsets < end[flat.rows])
    rows = flat.rows[chosen]
    columns[chosen] = flat.offsets[chosen] - begin[rows] + first_column[rows]


def _place(
    flat: Flat,
    laid: Zoned,
    columns: Ints,
    width: int,
    ids: TokenIds,
    positions: Positions,
    encoded: Sequence[EncodedExample] | Sequence[EncodedPrompt],
) -> dict[str, Any]:
    """Ids, mask, positions and zones in their columns, and the pixels of all rows end to end."""
    rows, at = len(flat.lengths), (laid.flat.rows, columns)
    grid = torch.cat([row.grid_thw for row in encoded])
    input_ids = np.full((rows, width), ids.pad, dtype=np.int64)
    input_ids[at] = laid.flat.ids
    mask = np.zeros((rows, width), dtype=bool)
    mask[at] = True
    zones = np.zeros((rows, width), dtype=np.uint8)
    zones[at] = laid.zones
    position_ids = np.zeros((3, rows, width), dtype=np.int64)
    flat_positions = positions(torch.from_numpy(flat.ids), torch.from_numpy(flat.lengths), grid)
    position_ids[:, *at] = flat_positions.numpy()[:, laid.source]
    images = torch.tensor([len(row.grid_thw) for row in encoded])
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(mask),
        "position_ids": torch.from_numpy(position_ids),
        "zones": torch.from_numpy(zones),
        "pixel_values": _cat_pixels([row.pixel_values for row in encoded]),
        "grid_thw": grid,
        "image_rows": torch.repeat_interleave(torch.arange(rows), images),
        "image_features": _all_features([row.image_features for row in encoded], len(grid)),
    }


def _shifted_labels(flat: Flat, columns: Ints, width: int, labels: Ints) -> Ints:
    """Each label at the column of the row's token before it [B, T]; a row's first token has none."""
    shifted = np.full((len(flat.lengths), width), IGNORED, dtype=np.int64)
    follows = np.flatnonzero(flat.offsets > 0)
    shifted[flat.rows[follows], columns[follows - 1]] = labels[follows]
    return shifted


def _auxiliary(examples: Sequence[EncodedExample]) -> dict[str, Any]:
    """Pixels or features of the auxiliary images of all rows end to end."""
    grids = torch.cat([no_grids(), *(example.auxiliary_grid_thw for example in examples)])
    return {
        "auxiliary_pixel_values": _cat_pixels([example.auxiliary_pixel_values for example in examples]),
        "auxiliary_grid_thw": grids,
        "auxiliary_features": _all_features([example.auxiliary_features for example in examples], len(grids)),
        "auxiliary_kept": tuple(kept for example in examples for kept in example.auxiliary_kept),
    }


def _all_features(features: Sequence[tuple[Tensor, ...]], images: int) -> tuple[Tensor, ...]:
    """Features computed beforehand, of all images of a batch or of none."""
    found = tuple(image for row in features for image in row)
    if found and len(found) != images:
        raise InputError(
            f"{len(found)} of {images} images of a batch come with features, the others with pixels; "
            "give all of them to with_features, or none."
        )
    return found


def _cat_pixels(pixels: Sequence[Tensor]) -> Tensor:
    """Patches of all images [P, C], skipping rows without any."""
    present = [patches for patches in pixels if len(patches)]
    return torch.cat(present) if present else no_pixels()


def _check(rows: Sequence[EncodedExample] | Sequence[EncodedPrompt]) -> None:
    if not rows:
        raise InputError("An empty batch cannot be laid out; give at least one row.")
    lengths = [len(row.ids) for row in rows]
    empty = [index for index, length in enumerate(lengths) if not length]
    if empty:
        raise InputError(f"Rows {empty} have no token.")


def _check_auxiliary(examples: Sequence[EncodedExample], flat: Flat, spans: Spans) -> None:
    """Auxiliary images come one a span in every row, or not at all."""
    images = np.array([len(example.auxiliary_grid_thw) for example in examples])
    held = np.bincount(flat.rows[spans.first], minlength=len(examples))
    if images.any() and (images != held).any():
        row = int(np.flatnonzero(images != held)[0])
        raise InputError(
            f"Row {row} has {images[row]} auxiliary images for {held[row]} latent spans; one a span is needed."
        )
