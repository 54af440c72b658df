"""What Monet's rows may attend to while auxiliary images stand in them: an image is for the latents after it alone.

The text must learn what an image shows from its latents (arXiv 2511.21395, the controlled attention flow). Each span
has its own auxiliary image, right before it: [image, its end, latent_start, latents, latent_end]. Legend: B rows,
T columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.latent.collate import LatentBatch
from mirage_core.latent.tokens import TokenIds
from mirage_core.model.forward.sight import Sight

_KINDS = 3  # segments a span: its image, what follows it up to latent_start, its latents; 0 is everything else
_IMAGE, _TAIL, _LATENTS = range(1, 1 + _KINDS)
_TAIL_TOKENS = 2  # vision_end and latent_start


@dataclass(frozen=True, slots=True)
class AuxiliarySight:
    """The sight of both passes, and ``tails`` [B, T]: auxiliary images and what follows them up to latent_start.

    ``parallel``: no token but the latents of a span attends to its image, not even the image's own tokens.
    ``rollout``: as released, the tails and the latents attend to everything before them, the rest as in ``parallel``.
    """

    parallel: Sight
    rollout: Sight
    tails: Tensor

    def to(self, device: torch.device) -> AuxiliarySight:
        """Return a copy on ``device``."""
        tails = self.tails.to(device, non_blocking=True)
        return replace(self, parallel=self.parallel.to(device), rollout=self.rollout.to(device), tails=tails)


def auxiliary_sight(batch: LatentBatch, ids: TokenIds, rows: int | None = None) -> AuxiliarySight:
    """Return the sight of a batch on the CPU; ``rows``: how many, from the first, have auxiliary images (None: all).

    The last images of a row are those of its spans, in order. InputError for a row whose spans lack theirs.
    """
    segments = np.zeros(batch.input_ids.shape, dtype=np.int64)
    spans = batch.span_rows.tolist(), batch.span_starts.tolist(), batch.span_lengths.tolist()
    by_row: dict[int, list[tuple[int, int]]] = {}
    for row, start, length in zip(*spans, strict=True):
        by_row.setdefault(row, []).append((start, length))
    for row, own in by_row.items():
        if rows is None or row < rows:
            segments[row] = _row_segments(batch, ids, row, own)
    most = max((len(own) for own in by_row.values()), default=0)
    tails = np.isin((segments - 1) % _KINDS + 1, (_IMAGE, _TAIL)) & (segments > 0)
    laid_out = torch.from_numpy(segments)
    parallel, rollout = (Sight(laid_out, _table(most, rolled_out=rolled_out)) for rolled_out in (False, True))
    return AuxiliarySight(parallel, rollout, torch.from_numpy(tails))


def _row_segments(batch: LatentBatch, ids: TokenIds, row: int, spans: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the segments of one row [T] with ``spans``: their first columns and lengths."""
    tokens = batch.input_ids[row].numpy()
    pads = np.flatnonzero((tokens == ids.image_pad) & batch.attention_mask[row].numpy())
    images = np.split(pads, np.flatnonzero(np.diff(pads) != 1) + 1) if len(pads) else []
    segments = np.zeros(len(tokens), dtype=np.int64)
    if len(images) < len(spans):
        raise InputError(
            f"Row {row} has {len(images)} images for {len(spans)} latent spans: each span needs its auxiliary image "
            "right before it. Encode with ObservedEncoder.observed(..., with_image=True)."
        )
    for number, (image, (start, length)) in enumerate(zip(images[-len(spans) :], spans, strict=True)):
        if start - image[-1] != _TAIL_TOKENS + 1:
            raise InputError(
                f"Row {row}: before the latents of span {number} at column {start}, expected its auxiliary image, "
                f"vision_end and latent_start, got an image that ends at column {image[-1]}. Encode with "
                "ObservedEncoder.observed(..., with_image=True)."
            )
        first = number * _KINDS
        segments[image[-1] + 1 : start] = first + _TAIL
        segments[image] = first + _IMAGE
        segments[start : start + length] = first + _LATENTS
    return segments


def _table(spans: int, *, rolled_out: bool) -> Tensor:
    """Return which segments each segment may attend to [query, key]."""
    table = torch.ones(1 + _KINDS * spans, 1 + _KINDS * spans, dtype=torch.bool)
    for first in range(0, _KINDS * spans, _KINDS):
        table[:, first + _IMAGE] = False
        table[first + _LATENTS, first + _IMAGE] = True
    if rolled_out:
        table[1:] = True
    return table
