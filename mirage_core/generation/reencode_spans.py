"""The wider pass of a step in which spans close: their latents are encoded again, for the text after them.

Rows whose span closes in this step contribute [latents..., latent_end], right-aligned; all other rows contribute one
token in the last column. Reencoded latents go to cache columns that are reserved for the s-th span of every row.
Legend: n rows, W columns of the pass, r rows whose span closes, m reencoded latents, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.generation.cache_mask import UNUSED, CacheMask
from mirage_core.generation.latent_modes import Ints, Mask, StepInput
from mirage_core.generation.span_buffer import SpanBuffer
from mirage_core.latent.bottleneck import Segment
from mirage_core.model.backbone import Backbone, Rotary
from mirage_core.model.cache import FixedCache, ReservedColumns
from mirage_core.model.packing import Packing


@dataclass(frozen=True, slots=True)
class ReencodePlan:
    """Of each reencoded latent [m]: its row, its number within the span, and its column in the pass.

    ``token_mask`` [n, W]: the columns of the pass that hold a token; tokens are numbered row by row.
    """

    rows: Ints
    index: Ints
    columns: Ints
    token_mask: Mask

    @property
    def token_columns(self) -> Ints:
        """The indices of all tokens in the flattened columns of the pass."""
        return np.flatnonzero(self.token_mask)

    @property
    def last_tokens(self) -> Ints:
        """The number of each row's last token [n]."""
        return np.asarray(self.token_mask.sum(1).cumsum() - 1)

    @property
    def latent_tokens(self) -> Ints:
        """The numbers of the reencoded latents [m]."""
        numbers = (self.token_mask.cumsum() - 1).reshape(self.token_mask.shape)
        return np.asarray(numbers[self.rows, self.columns])


def plan_reencoding(closing: Ints, lengths: Ints, rows: int) -> ReencodePlan:
    """Plan the pass of ``rows`` rows in which the spans of rows ``closing`` [r], of ``lengths`` [r] latents, close."""
    width = int(lengths.max()) + 1
    span_rows = closing.repeat(lengths)
    index = np.arange(len(span_rows)) - (lengths.cumsum() - lengths).repeat(lengths)
    columns = width - 1 - lengths.repeat(lengths) + index
    token_mask = np.zeros((rows, width), dtype=bool)
    token_mask[:, -1] = True
    token_mask[span_rows, columns] = True
    return ReencodePlan(span_rows, index, columns, token_mask)


class SpanReencoder:
    """Runs the steps in which spans of at most ``num_latents`` latents close."""

    def __init__(
        self, backbone: Backbone, cache: FixedCache, cache_mask: CacheMask, spans: SpanBuffer, num_latents: int
    ) -> None:
        self._backbone, self._cache, self._cache_mask, self._spans = backbone, cache, cache_mask, spans
        self._num_latents = num_latents
        self._reserved: list[int] = []

    def step(self, inputs: StepInput, embedded: Tensor, positions: Tensor, rotary: Rotary) -> Tensor:
        """Return the last hidden states [n, D] of a step with inputs ``embedded`` [n, D] at ``positions`` [n].

        ``rotary``: cosines and sines [positions, head size]. The caller advances the cache by the last column, as in
        every step.
        """
        closing = np.flatnonzero(inputs.closes_span)
        plan = plan_reencoding(closing, self._spans.counts[closing], len(positions))
        rows, columns, cache_columns = map(self._as_tensor, (plan.rows, plan.columns, self._cache_columns(plan)))
        latent_positions = positions[rows] - self._as_tensor(self._spans.counts[plan.rows] - plan.index)
        segments = self._as_tensor(self._spans.segments(inputs))
        self._cache_mask.write(rows, cache_columns, Segment.REENCODED, latent_positions)
        self._cache_mask.append(segments, positions)
        pass_segments = torch.full(plan.token_mask.shape, UNUSED, device=segments.device)
        pass_segments[:, -1], pass_segments[rows, columns] = segments, int(Segment.REENCODED)
        pass_positions = positions[:, None].repeat(1, plan.token_mask.shape[1])
        pass_positions[rows, columns] = latent_positions
        bias = self._backbone.attention_bias(self._cache_mask.allowed(pass_segments, pass_positions)[:, None])
        vectors = self._in_token_order(plan, embedded, self._spans.gather(plan.rows, plan.index))
        token_positions = self._in_token_order(plan, positions, latent_positions)
        hidden = self._backbone.hidden(
            vectors[None],
            (rotary[0][token_positions][None], rotary[1][token_positions][None]),
            bias,
            ReservedColumns(self._cache, rows, columns, cache_columns),
            packing=Packing(len(plan.token_mask), plan.token_mask.shape[1], self._as_tensor(plan.token_columns)),
        )
        return hidden[0, self._as_tensor(plan.last_tokens)]

    def _cache_columns(self, plan: ReencodePlan) -> Ints:
        """The cache columns [m] of the reencoded latents; reserved when a row first closes its s-th span."""
        spans = self._spans.closed[plan.rows]
        while len(self._reserved) <= int(spans.max()):
            self._reserved.append(self._cache.reserve(self._num_latents))
            self._cache_mask.reserve(self._num_latents)
        return np.asarray(self._reserved)[spans] + plan.index

    def _in_token_order(self, plan: ReencodePlan, last: Tensor, latents: Tensor) -> Tensor:
        """Values of the last tokens [n, ...] and of the reencoded latents [m, ...], in the order of the tokens."""
        values = last.new_empty(len(last) + len(latents), *last.shape[1:])
        values[self._as_tensor(plan.last_tokens)], values[self._as_tensor(plan.latent_tokens)] = last, latents
        return values

    def _as_tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._backbone.device)
