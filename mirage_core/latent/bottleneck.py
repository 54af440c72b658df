"""What text may attend to beside a latent span: everything, all but the image, or the latents alone.

Without a bottleneck a model may answer from the image and ignore its latents (arXiv 2602.22766). Every token of a row
belongs to a segment, and a table says which segments a segment may attend to, causally. A row without a span is
BEFORE throughout, but for the image tokens of the bottleneck ``image``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.config import Bottleneck
from mirage_core.errors import InputError
from mirage_core.latent.spans import FlatTokens, Ints, Spans, offsets_of
from mirage_core.latent.tokens import TokenIds

__all__ = ["Bottleneck", "Segment", "SegmentedRows", "assign_segments", "attention_table"]


class Segment(IntEnum):
    """The part of its row that a token belongs to."""

    BEFORE = 0
    """Prompt, images, and text up to and including the first latent_start."""
    LATENT = 1
    """Latents, as they are rolled out: they attend to everything before them but REENCODED.

    Under the bottleneck ``image`` each latent_start too: its last hidden state is the first latent."""
    AFTER = 2
    """Text after the first span: its latent_end, and the latent_start of later spans, included."""
    REENCODED = 3
    """The same latents encoded again for the text after them, at the same positions (latent_only)."""
    IMAGE = 4
    """Image tokens of a prompt (image); with the other bottlenecks they are BEFORE."""


def attention_table(bottleneck: Bottleneck, *, hide_latents: bool = False) -> Tensor:
    """Whether a token of segment q may attend to an earlier one of segment k: boolean [q, k].

    ``hide_latents``: the text after a span attends to no latent; all positions stay the same.
    """
    table = torch.ones(len(Segment), len(Segment), dtype=torch.bool)
    after = slice(Segment.AFTER, Segment.REENCODED + 1)
    for segment in (Segment.BEFORE, Segment.LATENT, Segment.IMAGE):
        table[segment, Segment.REENCODED] = False
    if bottleneck in ("latent_kv", "latent_only"):
        table[after, Segment.BEFORE] = table[after, Segment.IMAGE] = False
    if bottleneck == "latent_only":
        table[after, Segment.LATENT] = False
    if bottleneck == "image":
        table[Segment.BEFORE, Segment.IMAGE] = table[after, Segment.IMAGE] = False
    if hide_latents:
        table[Segment.AFTER, Segment.LATENT] = table[Segment.AFTER, Segment.REENCODED] = False
    return table


@dataclass(frozen=True, slots=True)
class SegmentedRows:
    """Rows with the segment of every token.

    ``flat``: their m tokens, reencoded latents included; ``spans``: the spans in them; ``segments`` [m]: values of
    Segment; ``source`` [m]: the index of each token among the n input tokens; ``own`` [n]: the index of each input
    token in ``flat``.
    """

    flat: FlatTokens
    spans: Spans
    segments: NDArray[np.uint8]
    source: Ints
    own: Ints


def assign_segments(
    flat: FlatTokens,
    spans: Spans,
    bottleneck: Bottleneck,
    ids: TokenIds,
    bottleneck_rows: Sequence[bool] | None = None,
) -> SegmentedRows:
    """Assign segments to the tokens of rows; under latent_only repeat every span right after itself.

    ``bottleneck_rows`` [B]: the rows with the bottleneck (None: all); the others are BEFORE throughout. InputError
    unless it has one value a row.
    """
    rows = len(flat.lengths)
    if bottleneck_rows is not None and len(bottleneck_rows) != rows:
        raise InputError(f"bottleneck_rows has {len(bottleneck_rows)} values for {rows} rows; give one value a row.")
    mask = np.ones(rows, dtype=bool) if bottleneck_rows is None else np.array(bottleneck_rows, dtype=bool)
    index = np.arange(len(flat.ids), dtype=np.int64)
    if bottleneck == "image":
        return SegmentedRows(flat, spans, _image_segments(flat, spans, ids, mask), index, index)
    if bottleneck == "none" or not mask[flat.rows[spans.first]].any():
        return SegmentedRows(flat, spans, np.zeros(len(index), dtype=np.uint8), index, index)
    if bottleneck == "latent_kv":
        return SegmentedRows(flat, spans, _segments(flat, spans, mask), index, index)
    return _with_reencoded_spans(flat, spans, mask)


def _with_reencoded_spans(flat: FlatTokens, spans: Spans, bottleneck_rows: NDArray[np.bool_]) -> SegmentedRows:
    """Repeat the spans of ``bottleneck_rows`` [B], each right after itself."""
    repeated = bottleneck_rows[flat.rows[spans.first]]
    copies = Spans(spans.first[repeated], spans.lengths[repeated], spans.index[repeated])
    insert_at = np.repeat(copies.first + copies.lengths, copies.lengths)
    source = np.insert(np.arange(len(flat.ids), dtype=np.int64), insert_at, copies.latents)
    reencoded = np.insert(np.zeros(len(flat.ids), dtype=bool), insert_at, True)
    rows = flat.rows[source]
    lengths = np.bincount(rows, minlength=len(flat.lengths))
    wide = FlatTokens(flat.ids[source], rows, offsets_of(rows, lengths), lengths)
    own = np.flatnonzero(~reencoded)
    wide_spans = Spans(own[spans.first], spans.lengths, spans.index)
    segments = _segments(wide, wide_spans, bottleneck_rows)
    segments[reencoded] = Segment.REENCODED
    return SegmentedRows(wide, wide_spans, segments, source, own)


def _segments(flat: FlatTokens, spans: Spans, bottleneck_rows: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Segments [m]: BEFORE up to the first latent of a row, LATENT, and AFTER; BEFORE in rows without a bottleneck."""
    first_latent = np.full(len(flat.lengths), len(flat.ids), dtype=np.int64)
    firsts = spans.first[spans.index == 0]
    first_latent[flat.rows[firsts]] = firsts
    before = np.arange(len(flat.ids)) < first_latent[flat.rows]
    segments = np.where(before, Segment.BEFORE, Segment.AFTER).astype(np.uint8)
    segments[spans.latents] = Segment.LATENT
    segments[~bottleneck_rows[flat.rows]] = Segment.BEFORE
    return segments


def _image_segments(
    flat: FlatTokens, spans: Spans, ids: TokenIds, bottleneck_rows: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Segments [m] under the bottleneck ``image``: IMAGE for the image's tokens, LATENT for each latent_start too."""
    segments = _segments(flat, spans, bottleneck_rows)
    under = bottleneck_rows[flat.rows]
    segments[under & (flat.ids == ids.latent_start)] = Segment.LATENT
    segments[under & (flat.ids == ids.image_pad)] = Segment.IMAGE
    return segments
