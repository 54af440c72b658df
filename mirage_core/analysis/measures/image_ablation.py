"""Interventions on latents, combined with an ablation of the image: full access, masked after the span, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mirage_core.analysis.donors import NO_DONOR, Donors
from mirage_core.analysis.intervened_generation import BatchIntervention, InterventionRunner, replace_latents
from mirage_core.analysis.results import ImageAccess
from mirage_core.generation.interventions import Interventions, SpanStates


def ablate_image(runner: InterventionRunner, access: ImageAccess) -> Interventions:
    """The interventions that leave this much access to the image.

    FULL: as in training. MASKED_AFTER_SPAN: text after a span attends to nothing before it (latent_kv, or the model's
    own bottleneck where that is as strict). NONE: no token attends to an image token, the prompt included.
    """
    if access == ImageAccess.FULL:
        return Interventions()
    if access == ImageAccess.NONE:
        return Interventions(image="hidden")
    return Interventions(bottleneck="latent_kv" if runner.bottleneck == "none" else runner.bottleneck)


def feed_latents(runner: InterventionRunner, access: ImageAccess, latents: Tensor) -> BatchIntervention:
    """Feed these latents [N, k, D]."""
    base = ablate_image(runner, access)

    def intervene(index: NDArray[np.int64]) -> Interventions:
        return replace(base, latents=replace_latents(latents, index))

    return intervene


def skip_latents(runner: InterventionRunner, access: ImageAccess, latents: Tensor) -> BatchIntervention:
    """Feed these latents [N, k, D], hidden from the text after the span; all positions stay as they are."""
    base = ablate_image(runner, access)

    def intervene(index: NDArray[np.int64]) -> Interventions:
        return replace(base, hide_latents=True, latents=replace_latents(latents, index))

    return intervene


def patch_states(
    runner: InterventionRunner, access: ImageAccess, latents: Tensor, states: Sequence[SpanStates | None]
) -> BatchIntervention:
    """Feed these latents [N, k, D], and patch these keys and values [N] into the span for the text after it."""
    base = ablate_image(runner, access)

    def intervene(index: NDArray[np.int64]) -> Interventions:
        batch = [states[at] for at in index.tolist()]
        patches = [None if span is None else (span,) for span in batch]
        return replace(base, latents=replace_latents(latents, index), states=patches)

    return intervene


def donor_states(states: Sequence[SpanStates | None], donors: Donors) -> list[SpanStates | None]:
    """The keys and values of each instance's donor [N]; None without a donor."""
    return [None if at == NO_DONOR else states[at] for at in donors.tolist()]
