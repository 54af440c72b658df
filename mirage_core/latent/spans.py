"""Rows of tokens as one flat array, and the latent spans in them.

Legend: B rows, S spans of all rows, n tokens of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.latent.tokens import TokenIds

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FlatTokens:
    """The tokens of all rows, concatenated: ids [n], their rows [n], offsets in the row [n], and row lengths [B]."""

    ids: Ints
    rows: Ints
    offsets: Ints
    lengths: Ints


@dataclass(frozen=True, slots=True)
class Spans:
    """Spans in row order: index of the first latent in the flat tokens [S], length [S], number in its row [S]."""

    first: Ints
    lengths: Ints
    index: Ints

    @property
    def latents(self) -> Ints:
        """The indices of all latents in the flat tokens."""
        return np.repeat(self.first, self.lengths) + self.numbers

    @property
    def numbers(self) -> Ints:
        """The number of every latent in its span."""
        return np.arange(self.lengths.sum()) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)


def flatten(rows: Sequence[Tensor]) -> FlatTokens:
    """Concatenate the ids of rows."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    index = np.repeat(np.arange(len(rows), dtype=np.int64), lengths)
    return FlatTokens(torch.cat(list(rows)).numpy(), index, offsets_of(index, lengths), lengths)


def offsets_of(rows: Ints, lengths: Ints) -> Ints:
    """Return the offset of every token in its row [n], from the tokens' rows [n] and the row lengths [B]."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(len(rows), dtype=np.int64) - starts[rows]


def no_spans() -> Spans:
    """Return the spans of rows that have none."""
    empty = np.empty(0, dtype=np.int64)
    return Spans(empty, empty, empty)


def with_span_tokens(flat: FlatTokens, spans: Spans, tokens: Sequence[int]) -> FlatTokens:
    """Return the rows with ``tokens``, by number in the span, in the place of latent_pad.

    InputError for a span that is longer.
    """
    longest = int(spans.lengths.max(initial=0))
    if longest > len(tokens):
        raise InputError(f"A span has {longest} latents, and there are {len(tokens)} tokens for the places of a span.")
    ids = flat.ids.copy()
    ids[spans.latents] = np.array(tokens, dtype=np.int64)[spans.numbers]
    return replace(flat, ids=ids)


def find_spans(flat: FlatTokens, ids: TokenIds) -> Spans:
    """Return every run of latent_pad; InputError for a run that does not follow latent_start in its row."""
    pads = np.flatnonzero(flat.ids == ids.latent_pad)
    if not len(pads):
        return no_spans()
    begins = np.ones(len(pads), dtype=bool)
    begins[1:] = (np.diff(pads) != 1) | (np.diff(flat.rows[pads]) != 0)
    first = pads[begins]
    lengths = np.diff(np.append(np.flatnonzero(begins), len(pads)))
    orphans = (flat.offsets[first] == 0) | (flat.ids[first - 1] != ids.latent_start)
    if orphans.any():
        bad = first[orphans][0]
        raise InputError(
            f"Row {flat.rows[bad]}: the latent_pad at token {flat.offsets[bad]} does not follow latent_start. "
            "Encode examples with Encoder.example or encode_rollout."
        )
    rows = flat.rows[first]
    return Spans(first, lengths, np.arange(len(first)) - np.searchsorted(rows, rows))
