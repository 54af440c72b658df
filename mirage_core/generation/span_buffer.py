"""What every row was fed in the span it is in, and in which columns it stands; and how many spans it has closed.

Legend: n rows, K most latents of a span, D hidden, r rows that close their span, m latents of those spans.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mirage_core.generation.latent_modes import Fed, Ints
from mirage_core.latent.bottleneck import Zone


class OpenSpans:
    """Kept where the span's latents are needed once more when it closes, or where text after it sees less.

    ``closed`` [n]: spans each row has closed; ``counts`` [n]: latents it was fed in the one it is in; ``columns``
    [n, K]: where these stand in the cache.
    """

    def __init__(self, rows: int, span: int) -> None:
        """At most ``span`` latents a span."""
        self.closed: Ints = np.zeros(rows, dtype=np.int64)
        self.counts: Ints = np.zeros(rows, dtype=np.int64)
        self.columns: Ints = np.zeros((rows, span), dtype=np.int64)
        self._vectors: Tensor | None = None

    def feed(self, fed: Fed, embedded: Tensor, column: int) -> None:
        """One column: what the rows were fed [n, D], and where it stands in the cache."""
        rows = np.flatnonzero(fed.latent)
        if len(rows):
            places = (_moved(rows, embedded), _moved(self.counts[rows], embedded))
            if self._vectors is None:
                self._vectors = embedded.new_zeros(*self.columns.shape, embedded.shape[-1])
            self._vectors[places] = embedded[places[0]]
            self.columns[rows, self.counts[rows]] = column
            self.counts[rows] += 1
        self.counts[fed.closes] = 0
        self.closed += fed.closes

    def zones(self, fed: Fed) -> Ints:
        """The zone [n] of what the rows are fed next."""
        text = np.where((self.closed > 0) | fed.closes, int(Zone.AFTER), int(Zone.BEFORE))
        return np.where(fed.latent, int(Zone.LATENT), text)

    def latents(self, row: int) -> Tensor:
        """What a row was fed in its span so far [k, D]."""
        return self._all()[row, : int(self.counts[row])]

    def replace(self, row: int, latents: Tensor) -> None:
        """As if a row had been fed ``latents`` [k, D] in its span."""
        self._all()[row, : len(latents)] = latents

    def gathered(self, rows: Ints, index: Ints) -> Tensor:
        """Latents [m, D] of open spans: the ``index``-th [m] of each row [m]."""
        vectors = self._all()
        return vectors[_moved(rows, vectors), _moved(index, vectors)]

    def keep(self, rows: Ints) -> None:
        """Go on with these rows only."""
        self.closed, self.counts, self.columns = self.closed[rows], self.counts[rows], self.columns[rows]
        self._vectors = None if self._vectors is None else self._vectors[_moved(rows, self._vectors)]

    def _all(self) -> Tensor:
        if self._vectors is None:
            raise RuntimeError("No row was fed a latent yet, so no span can close.")
        return self._vectors


def _moved(array: Ints, like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like.device)
