"""The latent mode of every row during decoding: in text, or in a span with so many latents left.

Legend: n rows. Plain numpy on the host, whatever the device of the model: a few small arrays a step.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class StepInput:
    """The next input of every row: a latent where ``is_latent`` [n], else ``tokens`` [n]; ``forced`` [n]: not sampled;
    ``closes_span`` [n]: the token is the first after the latents of a span, forced or sampled; ``goes_on`` [n]: the
    latent was chosen, where the span could have ended; ``latent_index`` [n]: the number of the latent in its span, 0
    for tokens.
    """

    is_latent: Mask
    tokens: Ints
    forced: Mask
    closes_span: Mask
    goes_on: Mask
    latent_index: Ints

    def select(self, rows: Ints) -> StepInput:
        """The inputs of these rows only."""
        return StepInput(*(getattr(self, field.name)[rows] for field in fields(self)))


class LatentModes:
    """A countdown for every row: 0 in text, else the number of latents left plus one for latent_end."""

    def __init__(
        self,
        in_span: Mask,
        spans_started: Ints,
        *,
        num_latents: int,
        end_kind: Literal["exact", "free", "open"],
        start: int,
        end: int,
    ) -> None:
        """Spans have ``num_latents`` latents, and then ``end`` ("exact") or any token ("open"), or at most so many
        latents ("free"). ``start``, ``end``: ids of the tokens round a span.
        """
        self.spans_started = spans_started
        self.num_latents, self._kind, self._start, self._end = num_latents, end_kind, start, end
        self._countdown: Ints = np.where(in_span, num_latents + 1, 0)

    def may_end(self) -> Mask:
        """Rows inside a span that the model may end now: free, and the span has a latent; open, and it has all."""
        if self._kind == "exact":
            return np.zeros(len(self._countdown), dtype=bool)
        return (self._countdown >= 1) & (self._countdown <= (1 if self._kind == "open" else self.num_latents))

    def samples_token(self) -> Mask:
        """Rows whose sampled token is used: those in text, and in spans that may end."""
        if self._kind == "open":
            return self._countdown <= 1
        return (self._countdown == 0) | (self.may_end() & (self._countdown > 1))

    def advance(self, sampled: Ints) -> StepInput:
        """Advance every row by the token sampled for it (ignored where ``samples_token`` is False)."""
        countdown = self._countdown
        over, may_end, samples = countdown == 1, self.may_end(), self.samples_token()
        forced = over & ~samples
        ends = samples & (countdown > 1) & (sampled == self._end)
        is_latent = (countdown > 1) & ~ends
        tokens = np.where(forced, self._end, sampled)
        starts = samples & (countdown <= 1) & (sampled == self._start)
        self.spans_started = self.spans_started + starts
        self._countdown = np.where(starts, self.num_latents + 1, np.where(is_latent, countdown - 1, 0))
        index = np.where(is_latent, self.num_latents + 1 - countdown, 0)
        return StepInput(is_latent, tokens, forced, over | ends, is_latent & may_end, index)

    def end_spans(self, rows: Mask) -> None:
        """End the spans of ``rows`` [n] after the latent that was just fed, whatever was left of them."""
        self._countdown = np.where(rows & (self._countdown > 1), 1, self._countdown)

    def join(self, other: LatentModes) -> None:
        """Append the rows of ``other``, whose spans follow the same rules."""
        self.spans_started = np.concatenate([self.spans_started, other.spans_started])
        self._countdown = np.concatenate([self._countdown, other._countdown])

    def select(self, rows: Ints) -> None:
        """Continue with these rows only."""
        self.spans_started, self._countdown = self.spans_started[rows], self._countdown[rows]
