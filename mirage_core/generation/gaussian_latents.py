"""Latents as actions: sampled from a Gaussian around the model's own hidden state, with the density of each.

Legend: n latents, L latents of an answer at most, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mirage_core.errors import InputError
from mirage_core.generation.interventions import Interventions
from mirage_core.generation.latent_modes import Ints
from mirage_core.generation.trajectory import Trajectory
from mirage_core.types import Problem


@dataclass(frozen=True, slots=True)
class LatentSampling:
    """How latents are sampled: ``numbers`` returns what decides those of a problem's answers, [samples, L, D].

    They are standard normal, those of an answer one after the other. ``sigma``: the standard deviation in every
    dimension, above 0, at the scale at which latents are fed.
    """

    numbers: Callable[[Problem], Tensor]
    sigma: float


class GaussianLatents:
    """The latents of one decoding: replaces each hidden state by a sample around it, and records its log-density.

    It is the ``latents`` of ``Interventions``. ``numbers`` [rows, L, D].
    """

    def __init__(self, numbers: Tensor, sigma: float) -> None:
        if sigma <= 0:
            raise InputError(f"sampled latents need a sigma above 0, got {sigma:g}: leave the sampling out")
        self._numbers, self._sigma = numbers, sigma
        self._log_densities = np.zeros(tuple(numbers.shape[:2]), dtype=np.float32)

    def __call__(self, rows: Ints, index: Ints, means: Tensor) -> Tensor:
        """Return latents [n, D] around ``means`` [n, D]; ``rows``, ``index`` [n]: the row and number of each."""
        numbers = self._numbers[torch.from_numpy(rows), torch.from_numpy(index)].to(means.device)
        latents = (means.float() + self._sigma * numbers.float()).to(means.dtype)
        log_sigma = torch.tensor(math.log(self._sigma), device=means.device)
        self._log_densities[rows, index] = gaussian_log_density(latents, means, log_sigma).cpu().numpy()
        return latents

    def within(self, interventions: Interventions | None) -> Interventions:
        """Return the interventions of a decoding with these latents; InputError where latents are replaced already."""
        if interventions is not None and interventions.latents is not None:
            raise InputError("latents are sampled, and Interventions.latents replaces them: leave one of them out")
        return replace(interventions or Interventions(), latents=self)

    def recorded(self, row: int, answer: Trajectory) -> Trajectory:
        """Return the answer of a row with the log-densities of its latents."""
        lengths = [len(latents) for latents in answer.latents]
        log_densities = torch.from_numpy(self._log_densities[row, : sum(lengths)].copy())
        return replace(answer, latent_log_probs=tuple(log_densities.split(lengths)) if lengths else ())


def with_densities(answers: Sequence[Sequence[Trajectory]], sampled: GaussianLatents) -> list[list[Trajectory]]:
    """Return the answers of a decoding, samples by prompt, with the log-densities of their latents."""
    rows = iter(range(sum(map(len, answers))))
    return [[sampled.recorded(next(rows), answer) for answer in group] for group in answers]


def gaussian_log_density(latents: Tensor, means: Tensor, log_sigma: Tensor) -> Tensor:
    """Return log N(latent; mean, sigma^2 I) / D [n] of latents [n, D], in float32; ``log_sigma``: one number.

    The mean over the dimensions, not their sum: the ratio of two policies is then the geometric mean of the ratios of
    the dimensions, and one latent moves it as much as one token does. A sum over thousands of dimensions would leave
    the clipping range with the smallest update.
    """
    deviations = (latents.float() - means.float()) * torch.exp(-log_sigma)
    return -0.5 * deviations.square().mean(-1) - log_sigma - 0.5 * math.log(2 * math.pi)
