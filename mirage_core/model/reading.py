"""The wider pass of a step in which rows close their span: its latents are encoded again, for the text after them.

Rows that close hold their latents and latent_end in the last columns, the others their one token in the last; the
latents go to cache columns reserved for the row's s-th span. Legend: n rows, W columns of the pass, m latents read,
D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mirage_core.model.modes import Ints


@dataclass(frozen=True, slots=True)
class Reading:
    """``rows`` [m] and ``index`` [m] (within the span) of the latents read, ``sources`` [m] their columns in the pass.

    ``held`` [n, W]: the columns of the pass that hold a token; they are numbered row by row.
    """

    rows: Ints
    index: Ints
    sources: Ints
    held: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

    @property
    def packing(self) -> tuple[int, int, Ints]:
        """Rows and columns of the pass, and which of them, laid end to end, hold a token."""
        return (*self.held.shape, np.flatnonzero(self.held))

    @property
    def last(self) -> Ints:
        """The number of the last token of each row [n]."""
        return np.asarray(self.held.sum(1).cumsum() - 1)

    @property
    def read(self) -> Ints:
        """The numbers of the latents read [m]."""
        return np.asarray((self.held.cumsum() - 1).reshape(self.held.shape)[self.rows, self.sources])


def reading(closing: Ints, lengths: Ints, rows: int) -> Reading:
    """Rows ``closing`` [r], of ``rows`` in all, read the latents of their spans of ``lengths`` [r]."""
    width = int(lengths.max()) + 1
    which = closing.repeat(lengths)
    index = np.arange(len(which)) - (lengths.cumsum() - lengths).repeat(lengths)
    sources = width - 1 - lengths.repeat(lengths) + index
    held = np.zeros((rows, width), dtype=bool)
    held[:, -1] = True
    held[which, sources] = True
    return Reading(which, index, sources, held)
