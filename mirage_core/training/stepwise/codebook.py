"""A codebook of appearances: k-means over image features at the places where frames change.

Legend: N features, C codes, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mirage_core.errors import DataError

_ROUNDS = 50
_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Codebook:
    """``centre`` [D], the mean of the features that it was made from, and ``codes`` [C, D], means of clusters of the
    centred features: a common part, which gives most of any cosine between raw features, is taken away."""

    centre: Tensor
    codes: Tensor

    def centred(self, features: Tensor) -> Tensor:
        """Return features [N, D] without the common part, in float32 on the CPU."""
        return features.detach().float().cpu() - self.centre

    def nearest(self, features: Tensor) -> Tensor:
        """Return the number of the code nearest to each raw feature [N, D]."""
        return _nearest(self.centred(features), self.codes)


def make_codebook(features: Tensor, size: int, seed: int, *, setting: str = "stepwise.codebook_size") -> Codebook:
    """Cluster raw features [N, D] by k-means (Lloyd), begun by k-means++ (Arthur and Vassilvitskii, 2007).

    The same features and seed give the same codebook. DataError, naming the ``setting`` of the size, for fewer
    different features than codes.
    """
    points = features.detach().float().cpu()
    different = len(torch.unique(points, dim=0))
    if different < size:
        raise DataError(
            f"a codebook of {size} appearances needs as many different ones, and the images have {different}: lower "
            f"{setting}, or train on more examples"
        )
    centre = points.mean(0)
    points = points - centre
    codes = _begin(points, size, torch.Generator().manual_seed(seed))
    for _ in range(_ROUNDS):
        owners = _nearest(points, codes)
        counts = torch.bincount(owners, minlength=size)
        moved = torch.zeros_like(codes).index_add(0, owners, points) / counts.clamp_min(1)[:, None]
        moved = torch.where(counts[:, None] > 0, moved, codes)
        if torch.equal(moved, codes):
            break
        codes = moved
    return Codebook(centre, codes)


def _begin(points: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Draw the first codes: each with a probability in proportion to its squared distance from those drawn before."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    distances = (points - points[chosen[0]]).square().sum(-1)
    while len(chosen) < size:
        chosen.append(int(torch.multinomial(distances.clamp_min(0), 1, generator=generator)))
        distances = torch.minimum(distances, (points - points[chosen[-1]]).square().sum(-1))
    return points[chosen]


def _nearest(points: Tensor, codes: Tensor) -> Tensor:
    owners = [torch.cdist(part, codes).argmin(-1) for part in points.split(_CHUNK)]
    return torch.cat(owners) if owners else torch.empty(0, dtype=torch.long)
