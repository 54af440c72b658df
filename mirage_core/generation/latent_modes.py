"""The latent mode of every row while decoding: text, so many latents to go, or the end of the span due.

Legend: n rows. Plain numpy: a few small arrays a step, on the host, whatever the device of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Fed:
    """What the rows are fed next: a latent where ``latent`` [n], else ``tokens`` [n]; ``forced`` [n]: not drawn;
    ``closes`` [n]: the token is the latent_end of a span, forced or drawn."""

    latent: Flags
    tokens: Ints
    forced: Flags
    closes: Flags

    def of(self, rows: Ints) -> Fed:
        """The same for these rows only."""
        return Fed(self.latent[rows], self.tokens[rows], self.forced[rows], self.closes[rows])


class LatentModes:
    """One countdown a row: 0 in text, else the latents still to be fed plus one for latent_end."""

    def __init__(self, in_span: Flags, spans_started: Ints, *, span: int, free_end: bool, start: int, end: int) -> None:
        self.spans_started = spans_started
        self.span, self._free_end, self._start, self._end = span, free_end, start, end
        self._countdown: Ints = np.where(in_span, span + 1, 0)

    def may_end(self) -> Flags:
        """Rows inside a span that the model may end now: its end is free, and one latent was fed."""
        if not self._free_end:
            return np.zeros(len(self._countdown), dtype=bool)
        return (self._countdown >= 1) & (self._countdown <= self.span)

    def draws(self) -> Flags:
        """Rows whose next token matters: text, and spans that may end."""
        return (self._countdown == 0) | (self.may_end() & (self._countdown > 1))

    def feed(self, drawn: Ints) -> Fed:
        """Move every row on, given the ids drawn for it (ignored where ``draws`` is False)."""
        countdown = self._countdown
        forced = countdown == 1
        closes = self.draws() & (countdown > 1) & (drawn == self._end)
        latent = (countdown > 1) & ~closes
        tokens = np.where(forced, self._end, drawn)
        starts = (countdown == 0) & (drawn == self._start)
        self.spans_started = self.spans_started + starts
        self._countdown = np.where(starts, self.span + 1, np.where(latent, countdown - 1, 0))
        return Fed(latent, tokens, forced, forced | closes)

    def keep(self, rows: Ints) -> None:
        """Go on with these rows only."""
        self.spans_started, self._countdown = self.spans_started[rows], self._countdown[rows]
