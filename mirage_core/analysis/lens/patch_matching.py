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


def match(image: Literal["input", "auxiliary"], index: int, fits: Fits, rng: np.random.Generator) -> Match:
    """Rank fits [N, N]; ``fits[i, j]`` is the fit of the latent of instance j to the image of instance i.

    The interval is a bootstrap over instances. Fewer than three instances give no figure.
    """
    n = len(fits)
    if n < 3:
        return Match(picture=image, index=index, rank=Estimate(value=None, n=n), p_value=None)
    ranks = _ranks(fits)
    own = ranks.diagonal()
    means = own[rng.integers(0, n, (SHUFFLES, n))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    shuffled = np.array([ranks[np.arange(n), rng.permutation(n)].mean() for _ in range(SHUFFLES)])
    p = (1 + int((shuffled >= own.mean() - 1e-12).sum())) / (1 + SHUFFLES)
    rank = Estimate(value=round(float(own.mean()), 4), low=round(float(low), 4), high=round(float(high), 4), n=n)
    return Match(picture=image, index=index, rank=rank, p_value=round(p, 4))


def fits_of(latents: Tensor, images: Sequence[Tensor]) -> Fits:
    """The highest cosine of each latent [N, D] to a patch of each image (N of [P_i, D]), all centred: [N, N]."""
    unit = torch.nn.functional.normalize(latents.float(), dim=-1)
    rows = [(torch.nn.functional.normalize(patches.float(), dim=-1) @ unit.T).amax(0) for patches in images]
    return torch.stack(rows).double().cpu().numpy()


def _ranks(fits: Fits) -> Fits:
    """For every entry the share of the other entries in its row that are lower; equal ones count half."""
    rounded = fits.round(6)
    lower = (rounded[:, None, :] < rounded[:, :, None]).sum(-1)
    equal = (rounded[:, None, :] == rounded[:, :, None]).sum(-1) - 1
    ranks: Fits = (lower + 0.5 * equal) / (fits.shape[1] - 1)
    return ranks
