"""What makes stage 2 harder than the paper's: rows under a bottleneck, noise on latents, latents left out.

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
from mirage_core.latent.collate import LatentBatch

_RAMP, _NOISE, _DROPOUT = range(3)


@dataclass(frozen=True, slots=True)
class Disturbance:
    """``noise`` [n, D] in units of each latent's standard deviation, and ``kept`` [n, 1], 0 for a latent left out."""

    noise: Tensor
    kept: Tensor

    def __call__(self, latents: Tensor, numbers: Tensor) -> Tensor:
        """The latents [r, D] as they are fed; ``numbers`` [r]: which of the batch's they are, counted row by row.

        The deviation counts as a constant: no gradient asks latents to shrink from the noise.
        """
        deviation = latents.detach().float().std(-1, keepdim=True)
        noise = self.noise.index_select(0, numbers) * deviation
        return (latents + noise.to(latents.dtype)) * self.kept.index_select(0, numbers).to(latents.dtype)

    def to(self, device: torch.device) -> Disturbance:
        """The same on ``device``."""
        return Disturbance(self.noise.to(device, non_blocking=True), self.kept.to(device, non_blocking=True))


@dataclass(frozen=True, slots=True)
class Hardening:
    """The settings of stage 2, the job's seed, and the steps of the whole stage, over which the bottleneck comes on."""

    settings: RelaxationSettings
    seed: int
    steps: int

    def under(self, step: int, examples: Sequence[int]) -> list[bool] | None:
        """Which rows [B] are under the bottleneck, with the examples in them; None: all."""
        rising = self.settings.bottleneck_ramp * self.steps
        if step >= rising:
            return None
        return [self._chance(step, example, _RAMP).random() < step / rising for example in examples]

    def disturbance(self, step: int, examples: Sequence[int], batch: LatentBatch, hidden: int) -> Disturbance | None:
        """What happens to the latents of a batch on the CPU, whose first rows are ``examples``; None: nothing.

        Further rows only keep processes in step.
        """
        noise, dropout = self.settings.latent_noise, self.settings.latent_dropout
        if not noise and not dropout:
            return None
        held = torch.bincount(batch.span_rows, batch.span_lengths, minlength=batch.rows).long().tolist()
        disturbed, kept = np.zeros((sum(held), hidden), dtype=np.float32), np.ones((sum(held), 1), dtype=np.float32)
        first = 0
        for example, latents in zip(examples, held, strict=False):  # those of further rows stay as they are
            rows = slice(first, first + latents)
            if noise:
                drawn = self._chance(step, example, _NOISE).standard_normal((latents, hidden), dtype=np.float32)
                disturbed[rows] = noise * drawn
            if dropout:
                kept[rows, 0] = self._chance(step, example, _DROPOUT).random(latents) >= dropout
            first += latents
        return Disturbance(torch.from_numpy(disturbed), torch.from_numpy(kept))

    def _chance(self, step: int, example: int, what: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, step, example, what])
