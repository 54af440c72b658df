"""Replacements for latents [N, k, D]: tensors of the same shape, computed before anything is decoded.

Legend: N instances, k latents, D hidden.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mirage_core.analysis.donors import NO_DONOR, Donors


def clamped(latents: Tensor, seed: int) -> Tensor:
    """For every instance the latents [k, D] of one instance, drawn by ``seed``."""
    chosen = int(np.random.default_rng(seed).integers(len(latents)))
    return latents[chosen].expand_as(latents).clone()


def mean(latents: Tensor) -> Tensor:
    """For every instance the mean over instances at each index."""
    return latents.mean(0).expand_as(latents).clone()


def noised(latents: Tensor, scale: float, seed: int) -> Tensor:
    """Latents plus Gaussian noise of ``scale`` standard deviations (``overall_std``).

    All scales use the same draw, so that a dose-response curve is not blurred by sampling.
    """
    return latents + scale * overall_std(latents) * _normal(latents, seed)


def noise_only(latents: Tensor, seed: int) -> Tensor:
    """Gaussian vectors with the mean and standard deviation over instances of each number at each index: latents that
    are independent of their input."""
    return latents.mean(0) + latents.std(0, unbiased=False) * _normal(latents, seed)


def own_covariance_noise(latents: Tensor, seed: int) -> Tensor:
    """Gaussian latents with the mean and the full covariance over instances of all k * D numbers of a span.

    Unlike ``noise_only`` they vary together as latents do, within a latent and between the latents of a span.
    """
    centre = latents.mean(0)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(len(latents), len(latents), generator=generator, dtype=latents.dtype) / len(latents) ** 0.5
    return centre + torch.einsum("nm,mkd->nkd", weights, latents - centre)


def from_donors(latents: Tensor, donors: Donors) -> Tensor:
    """For every instance its donor's latents; its own where it has no donor."""
    own = np.arange(len(latents))
    return latents[torch.from_numpy(np.where(donors == NO_DONOR, own, donors))]


def overall_std(latents: Tensor) -> float:
    """The standard deviation of all numbers of all latents: the unit of noise scales."""
    return float(latents.double().std(unbiased=False))


def _normal(latents: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(latents.shape, generator=generator, dtype=latents.dtype)
