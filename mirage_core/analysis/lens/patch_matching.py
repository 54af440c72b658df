"""Whether latents match their own image better than the latents of other problems: ranks and a permutation test.

Legend: N instances, P patches of an image, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mirage_core.analysis.results import Estimate, Record
from mirage_core.evaluation.pictures import Units, exchangeable, exchanged

SHUFFLES = 1000
Fits = NDArray[np.float64]


class Match(Record):
    """How well the latents at one index match their own images."""

    picture: Literal["input", "auxiliary"]
    index: int
    rank: Estimate = Field(
        description="Mean share of other problems' latents whose best patch in this image is less close; chance is .5."
    )
    p_value: float | None = Field(description="(1 + shuffles of latents at least as high) / (1 + shuffles).")


def match(
    image: Literal["input", "auxiliary"],
    index: int,
    fits: Fits,
    rng: np.random.Generator,
    units: Units | None = None,
) -> Match:
    """Rank fits [N, N]; ``fits[i, j]`` is the fit of the latent of instance j to the image of instance i.

    ``units`` [N] (None: each instance is one): a latent is ranked among those of other units, and whole units are
    resampled for the interval and shuffled for the p-value. Fewer than three units give no figure.
    """
    n = len(fits)
    units = np.arange(n) if units is None else units
    count = int(units.max(initial=-1)) + 1
    if count < 3:
        return Match(picture=image, index=index, rank=Estimate(value=None, n=n), p_value=None)
    ranks = _ranks(fits, units)
    own = ranks.diagonal()
    drawn = rng.integers(0, count, (SHUFFLES, count))
    means = np.bincount(units, weights=own)[drawn].sum(1) / np.bincount(units)[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    blocks = exchangeable([""] * n, units)
    shuffled = np.array([ranks[np.arange(n), exchanged(blocks, rng)].mean() for _ in range(SHUFFLES)])
    p = (1 + int((shuffled >= own.mean() - 1e-12).sum())) / (1 + SHUFFLES)
    rank = Estimate(value=round(float(own.mean()), 4), low=round(float(low), 4), high=round(float(high), 4), n=n)
    return Match(picture=image, index=index, rank=rank, p_value=round(p, 4))


def fits_of(latents: Tensor, images: Sequence[Tensor]) -> Fits:
    """The highest cosine of each latent [N, D] to a patch of each image (N of [P_i, D]), all centred: [N, N]."""
    unit = torch.nn.functional.normalize(latents.float(), dim=-1)
    rows = [(torch.nn.functional.normalize(patches.float(), dim=-1) @ unit.T).amax(0) for patches in images]
    return torch.stack(rows).double().cpu().numpy()


def _ranks(fits: Fits, units: Units) -> Fits:
    """For every entry the share of its row's entries of other units that are lower; equal ones count half."""
    rounded, others = fits.round(6), units[:, None] != units
    lower = ((rounded[:, None, :] < rounded[:, :, None]) & others).sum(-1)
    equal = ((rounded[:, None, :] == rounded[:, :, None]) & others).sum(-1)
    ranks: Fits = (lower + 0.5 * equal) / others.sum(-1)
    return ranks
