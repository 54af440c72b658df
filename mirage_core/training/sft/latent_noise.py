"""Regularisation of stage 2 beyond the paper: a ramp of the bottleneck, noise on latents, dropout of latents.

All of it is a function of (seed, step, example), whatever the processes and micro-batches. Legend: B rows, n latents of
a batch, r of them, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mirage_core.config import RelaxationSettings
from mirage_core.latent.bottleneck import Bottleneck
from mirage_core.latent.collate import LatentBatch

_RAMP, _NOISE, _DROPOUT = range(3)


@dataclass(frozen=True, slots=True)
class LatentNoise:
    """``noise`` [n, D] in units of each latent's standard deviation, and ``mask`` [n, 1], 0 for a dropped latent."""

    noise: Tensor
    mask: Tensor

    def __call__(self, latents: Tensor, numbers: Tensor) -> Tensor:
        """Return the latents [r, D] with noise; ``numbers`` [r]: their indices in the batch, counted row by row.

        The deviation counts as a constant: no gradient asks latents to shrink from the noise.
        """
        deviation = latents.detach().float().std(-1, keepdim=True)
        noise = self.noise.index_select(0, numbers) * deviation
        return (latents + noise.to(latents.dtype)) * self.mask.index_select(0, numbers).to(latents.dtype)

    def to(self, device: torch.device) -> LatentNoise:
        """Return a copy on ``device``."""
        return LatentNoise(self.noise.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))


@dataclass(frozen=True, slots=True)
class LatentRegularizer:
    """The settings of stage 2, the job's seed, and the steps of the whole stage, over which the bottleneck ramps up."""

    settings: RelaxationSettings
    seed: int
    steps: int

    def bottleneck(self, step: int, own: Bottleneck) -> Bottleneck:
        """Return the bottleneck of a step: ``own``, or that of the first steps."""
        begins = self.settings.first_bottleneck != "none" and step < self.settings.first_share * self.steps
        return self.settings.first_bottleneck if begins else own

    def bottleneck_rows(self, step: int, examples: Sequence[int]) -> list[bool] | None:
        """Return which rows [B], one per example, are under the bottleneck; None: all."""
        ramp_steps = self.settings.bottleneck_ramp * self.steps
        if step >= ramp_steps:
            return None
        return [self._rng(step, example, _RAMP).random() < step / ramp_steps for example in examples]

    def noise(self, step: int, examples: Sequence[int], batch: LatentBatch, hidden: int) -> LatentNoise | None:
        """Draw the noise of a batch on the CPU, whose first rows are ``examples``; None without noise and dropout.

        Further rows (dummy rows) get none.
        """
        scale, dropout = self.settings.latent_noise, self.settings.latent_dropout
        if not scale and not dropout:
            return None
        counts = torch.bincount(batch.span_rows, batch.span_lengths, minlength=batch.rows).long().tolist()
        noise, mask = np.zeros((sum(counts), hidden), dtype=np.float32), np.ones((sum(counts), 1), dtype=np.float32)
        first = 0
        for example, latents in zip(examples, counts, strict=False):  # without the dummy rows
            rows = slice(first, first + latents)
            if scale:
                drawn = self._rng(step, example, _NOISE).standard_normal((latents, hidden), dtype=np.float32)
                noise[rows] = scale * drawn
            if dropout:
                mask[rows, 0] = self._rng(step, example, _DROPOUT).random(latents) >= dropout
            first += latents
        return LatentNoise(torch.from_numpy(noise), torch.from_numpy(mask))

    def _rng(self, step: int, example: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, step, example, purpose])
