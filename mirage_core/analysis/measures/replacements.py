"""What is fed in place of the latents: tensors of one row an instance, decided before anything is decoded.

Legend: N instances, k latents, D hidden.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mirage_core.analysis.donors import NOBODY, Partners


def clamped(latents: Tensor, seed: int) -> Tensor:
    """Every instance gets the latents [k, D] of one of them, the same for all."""
    chosen = int(np.random.default_rng(seed).integers(len(latents)))
    return latents[chosen].expand_as(latents).clone()


def mean(latents: Tensor) -> Tensor:
    """Every instance gets the mean over instances at each index."""
    return latents.mean(0).expand_as(latents).clone()


def noised(latents: Tensor, scale: float, seed: int) -> Tensor:
    """Latents with Gaussian noise of ``scale`` standard deviations (``spread``) added to every number.

    The noise of all scales is one draw, made larger, so that a dose-response curve is not blurred by luck.
    """
    return latents + scale * spread(latents) * _normal(latents, seed)


def noise_only(latents: Tensor, seed: int) -> Tensor:
    """Gaussian vectors with the mean and the standard deviation over instances that each number has at each index:
    what a latent looks like that knows nothing of its input."""
    return latents.mean(0) + latents.std(0, unbiased=False) * _normal(latents, seed)


def lent(latents: Tensor, partners: Partners) -> Tensor:
    """Every instance gets its donor's latents; its own where it has none."""
    own = np.arange(len(latents))
    return latents[torch.from_numpy(np.where(partners == NOBODY, own, partners))]


def spread(latents: Tensor) -> float:
    """The standard deviation of all numbers of all latents, what a noise scale of 1 means."""
    return float(latents.double().std(unbiased=False))


def _normal(latents: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(latents.shape, generator=generator, dtype=latents.dtype)
