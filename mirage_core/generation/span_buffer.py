"""The latents of the open span of every row, their cache columns, and the number of spans each row has closed.

Legend: n rows, K most latents of a span, D hidden, m latents of several rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mirage_core.generation.latent_modes import Ints, StepInput
from mirage_core.latent.bottleneck import Segment


class SpanBuffer:
    """Needed where the latents of a span are used again when it closes, or where attention depends on segments.

    ``closed`` [n]: spans each row has closed; ``counts`` [n]: latents of its open span; ``columns`` [n, K]: their
    columns in the cache.
    """

    def __init__(self, rows: int, num_latents: int, start_token: int | None = None) -> None:
        """At most ``num_latents`` latents a span; ``start_token``: one that counts as a latent (latent_start)."""
        self._start_token = start_token
        self.closed: Ints = np.zeros(rows, dtype=np.int64)
        self.counts: Ints = np.zeros(rows, dtype=np.int64)
        self.columns: Ints = np.zeros((rows, num_latents), dtype=np.int64)
        self._vectors: Tensor | None = None

    def append(self, inputs: StepInput, embedded: Tensor, column: int) -> None:
        """Add one step: the embedded inputs [n, D], and their column in the cache."""
        rows = np.flatnonzero(inputs.is_latent)
        if len(rows):
            cells = (_as_tensor(rows, embedded), _as_tensor(self.counts[rows], embedded))
            if self._vectors is None:
                self._vectors = embedded.new_zeros(*self.columns.shape, embedded.shape[-1])
            self._vectors[cells] = embedded[cells[0]]
            self.columns[rows, self.counts[rows]] = column
            self.counts[rows] += 1
        self.counts[inputs.closes_span] = 0
        self.closed += inputs.closes_span

    def segments(self, inputs: StepInput) -> Ints:
        """The segments [n] of the next inputs."""
        text = np.where((self.closed > 0) | inputs.closes_span, int(Segment.AFTER), int(Segment.BEFORE))
        starts = np.zeros_like(inputs.is_latent) if self._start_token is None else inputs.tokens == self._start_token
        return np.where(inputs.is_latent | starts, int(Segment.LATENT), text)

    def latents(self, row: int) -> Tensor:
        """The latents [k, D] of a row's open span."""
        return self._buffer()[row, : int(self.counts[row])]

    def replace(self, row: int, latents: Tensor) -> None:
        """Replace the latents of a row's open span by ``latents`` [k, D]."""
        self._buffer()[row, : len(latents)] = latents

    def gather(self, rows: Ints, index: Ints) -> Tensor:
        """Latents [m, D] of open spans: number ``index`` [m] of row ``rows`` [m]."""
        vectors = self._buffer()
        return vectors[_as_tensor(rows, vectors), _as_tensor(index, vectors)]

    def join(self, other: SpanBuffer, fronts: tuple[int, int]) -> None:
        """Append the rows of ``other``, after so many columns in front of these rows, and of those."""
        rows, its_rows = len(self.closed), len(other.closed)
        self.closed = np.concatenate([self.closed, other.closed])
        self.counts = np.concatenate([self.counts, other.counts])
        self.columns = np.concatenate([self.columns + fronts[0], other.columns + fronts[1]])
        vectors = self._vectors if self._vectors is not None else other._vectors
        if vectors is not None:
            none = vectors.new_zeros(max(rows, its_rows), *vectors.shape[1:])
            own = none[:rows] if self._vectors is None else self._vectors
            its = none[:its_rows] if other._vectors is None else other._vectors
            self._vectors = torch.cat([own, its])

    def trim(self, columns: int) -> None:
        """Drop so many columns in front, which no open span uses."""
        self.columns = self.columns - columns

    def select(self, rows: Ints) -> None:
        """Continue with these rows only."""
        self.closed, self.counts, self.columns = self.closed[rows], self.counts[rows], self.columns[rows]
        self._vectors = None if self._vectors is None else self._vectors[_as_tensor(rows, self._vectors)]

    def _buffer(self) -> Tensor:
        if self._vectors is None:
            raise RuntimeError("No row has an open span with a latent, so no span can close.")
        return self._vectors


def _as_tensor(array: Ints, like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like.device)
