"""Plan the passes over a batch: which tokens go into which pass, and what each pass takes from earlier ones.

A pass shifts each row's tokens to the left of its columns, so that the first pass is plainly causal and only later
ones need a mask; where rows differ in length, everything but attention runs on the packed tokens.
Legend: B rows, T columns of the batch, C columns of a pass, n tokens of a pass, r latents of a pass, m latents that a
pass encodes again, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.latent.bottleneck import Bottleneck, Segment, attention_table
from mirage_core.latent.collate import SpanBlock
from mirage_core.model.backbone import InputEmbeddings, Rotary
from mirage_core.model.packing import Packing

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPass:
    """The tokens [n] of batch columns [begin, end), row by row.

    ``source`` [n]: their indices in the batch, its rows laid end to end. ``packing``: their indices in the pass; None
    where no row has padding. ``token_mask`` [B, C]: the columns of the pass that hold a token. ``last_tokens`` [B]:
    each row's last token. ``latent_tokens`` [r]: the tokens that are latents, each the hidden state of token
    ``latent_sources`` [r] of the previous pass; ``latent_rows`` [r]: their rows; ``latent_numbers`` [r]: their numbers
    among the batch's latents, counted row by row. ``reencoded_tokens`` [m]: the tokens that are latents encoded again;
    ``reencoded_sources`` [m]: their indices among the latents of all passes so far. ``segments`` [B, C]: of the
    tokens; None without a bottleneck. ``restricted``: whether the bottleneck hides an earlier token from some token of
    the pass.
    """

    begin: int
    end: int
    source: Tensor
    packing: Packing | None
    token_mask: Tensor
    last_tokens: Tensor
    latent_tokens: Tensor
    latent_sources: Tensor
    latent_rows: Tensor
    latent_numbers: Tensor
    reencoded_tokens: Tensor
    reencoded_sources: Tensor
    segments: Tensor | None
    restricted: bool

    def inputs(self, embedded: InputEmbeddings, latents: Sequence[Tensor] = ()) -> InputEmbeddings:
        """Return the pass's part of a batch's embeddings; ``latents``: [r, D] of every pass so far, its own last."""
        part = embedded.columns(self.begin, self.end)
        if self.packing is not None:
            part = replace(embedded, deep=None if part.deep is None else embedded.deep).packed(self.source)
        if not len(self.latent_tokens):
            return part
        vectors, index, tokens = latents[-1], self.latent_tokens, part.tokens
        if len(self.reencoded_tokens):
            index = torch.cat([index, self.reencoded_tokens])
            vectors = torch.cat([vectors, torch.cat(list(latents)).index_select(0, self.reencoded_sources)])
        elif len(index) == len(self.source):
            return replace(part, tokens=vectors.view_as(tokens))
        return replace(part, tokens=tokens.flatten(0, 1).index_copy(0, index, vectors).view_as(tokens))

    def rotary(self, rotary: Rotary) -> Rotary:
        """Return the pass's part of a batch's cosines and sines."""
        if self.packing is None:
            return rotary[0][:, self.begin : self.end], rotary[1][:, self.begin : self.end]
        cos, sin = (part.flatten(0, 1).index_select(0, self.source)[None] for part in rotary)
        return cos, sin


def plan_passes(
    mask: Tensor,
    blocks: Sequence[SpanBlock] = (),
    *,
    pack: bool = False,
    segments: Tensor | None = None,
    bottleneck: Bottleneck = "none",
    after_prompts: bool = False,
    table: Tensor | None = None,
) -> list[ForwardPass]:
    """Plan the passes over rows with tokens where ``mask`` [B, T] is True; a GPU is synchronized once for all passes.

    ``blocks``: the span columns to roll out; none: one pass. ``pack``: pack also where no row has padding, so that rows
    of any lengths run the same modules. ``segments`` [B, T]: the tokens' segments, where there is a ``bottleneck``.
    ``after_prompts``: the rows continue prompts, of which some may have images. ``table`` [query, key]: which segments
    a segment may attend to, in the place of the bottleneck's; their numbers are then free.
    """
    token_mask = mask.cpu().numpy()
    own = bottleneck if table is None else "none"
    token_segments = None if segments is None or (table is None and own == "none") else segments.cpu().numpy()
    planner = _Planner(
        token_mask,
        token_segments,
        (attention_table(own) if table is None else table).numpy(),
        _latent_numbers(token_mask, blocks, None if own == "none" else token_segments),
        mask.device,
        pack,
        (Segment.IMAGE,) if after_prompts and own == "image" else (),
    )
    edges = [0, *(column for block in blocks for column in range(block.start, block.start + block.width))]
    return [planner.next(begin, end) for begin, end in pairwise([*edges, token_mask.shape[1]])]


def _latent_numbers(token_mask: Mask, blocks: Sequence[SpanBlock], segments: NDArray[np.integer] | None) -> Ints:
    """Number the latents of each token [B, T], counted row by row; -1 for text and for latents not rolled out.

    A token that encodes a latent again has that latent's number.
    """
    numbers = np.full(token_mask.shape, -1, dtype=np.int64)
    if not blocks:
        return numbers
    in_span = np.zeros_like(token_mask)
    for block in blocks:
        columns = slice(block.start, block.start + block.width)
        in_span[:, columns] = token_mask[:, columns]
    numbers[in_span] = np.arange(in_span.sum())
    if segments is not None and (segments == Segment.REENCODED).any():
        numbers[segments == Segment.REENCODED] = numbers[
            segments == Segment.LATENT
        ]  # both are in a row's order of latents
    return numbers


class _Planner:
    """Plans one pass after the other. All arrays are [B, T], but ``allowed``: [query segment, key segment]."""

    def __init__(
        self,
        token_mask: Mask,
        segments: NDArray[np.integer] | None,
        allowed: Mask,
        latent_numbers: Ints,
        device: torch.device,
        pack: bool,
        earlier: Sequence[Segment],
    ) -> None:
        self._token_mask, self._segments, self._allowed = token_mask, segments, allowed
        self._latent_numbers = latent_numbers
        self._device, self._pack = device, pack
        self._last_tokens = np.empty(0, dtype=np.int64)
        self._input_order = np.empty(latent_numbers.max(initial=-1) + 1, dtype=np.int64)
        self._num_latents = 0
        self._earlier_segments = np.zeros(len(allowed), dtype=bool)
        self._earlier_segments[list(earlier)] = True

    def next(self, begin: int, end: int) -> ForwardPass:
        """Plan the pass over columns [begin, end)."""
        mask = self._token_mask[:, begin:end]
        rows, columns = mask.nonzero()
        counts = mask.sum(1)
        width = int(counts.max())
        index = rows * width + (mask.cumsum(1) - 1)[rows, columns]
        latent_tokens = np.flatnonzero(columns == 0) if begin else np.empty(0, dtype=np.int64)
        latent_sources = self._last_tokens[rows[latent_tokens]] if begin else latent_tokens
        self._last_tokens = counts.cumsum() - 1
        segments, restricted = self._segments_of(rows, begin + columns, index, width)
        return ForwardPass(
            begin=begin,
            end=end,
            source=self._to_device(rows * self._token_mask.shape[1] + begin + columns),
            packing=None if not self._pack and bool(mask.all()) else Packing(len(mask), width, self._to_device(index)),
            token_mask=self._to_device(np.arange(width) < counts[:, None]),
            last_tokens=self._to_device(self._last_tokens),
            latent_tokens=self._to_device(latent_tokens),
            latent_sources=self._to_device(latent_sources),
            latent_rows=self._to_device(rows[latent_tokens]),
            **self._latent_indices(rows, begin + columns, latent_tokens),
            segments=segments,
            restricted=restricted,
        )

    def _latent_indices(self, rows: Ints, columns: Ints, latent_tokens: Ints) -> dict[str, Tensor]:
        """Return the numbers of the pass's latents, and the indices of those it encodes again."""
        numbers = self._latent_numbers[rows, columns]
        new = numbers[latent_tokens]
        self._input_order[new] = np.arange(self._num_latents, self._num_latents + len(new))
        self._num_latents += len(new)
        reencoded = numbers >= 0
        reencoded[latent_tokens] = False
        return {
            "latent_numbers": self._to_device(new),
            "reencoded_tokens": self._to_device(np.flatnonzero(reencoded)),
            "reencoded_sources": self._to_device(self._input_order[numbers[reencoded]]),
        }

    def _segments_of(self, rows: Ints, columns: Ints, index: Ints, width: int) -> tuple[Tensor | None, bool]:
        """Return the segments of the pass [B, C], and whether one of them may not attend to an earlier one."""
        if self._segments is None:
            return None, False
        token_segments = self._segments[rows, columns]
        present = np.zeros_like(self._earlier_segments)
        present[token_segments] = True
        self._earlier_segments |= present
        table = np.zeros(len(self._token_mask) * width, dtype=np.int64)
        table[index] = token_segments
        restricted = bool((~self._allowed[present][:, self._earlier_segments]).any())
        return self._to_device(table.reshape(-1, width)), restricted

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)
