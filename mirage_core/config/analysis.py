"""The causal analysis: what is measured on how many problems, and how finely."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mirage_core.config.section import Positive, Section

Measure = Literal["similarity", "probes", "interventions", "mediation", "only-latents", "text-chain"]
"""What can be measured of a model's latents, or of its chain in words."""


class AnalysisSettings(Section):
    """How it is measured whether latents carry the input and drive the answer. Decoding is greedy throughout."""

    measures: tuple[Measure, ...] = Field(
        ("similarity", "probes", "interventions", "mediation", "only-latents", "text-chain"),
        description="Which measures a study takes.",
    )
    instances: Positive = Field(
        100, description="Test problems measured, spread evenly over benchmarks and groups (arXiv 2602.22766: 100)."
    )
    batch_size: Positive = Field(50, description="Problems answered together; part of the result's identity.")
    seed: int = Field(0, ge=0, description="Decides partners, noise, folds, shuffles and resamples.")
    views: tuple[Literal["present", "cut", "hidden"], ...] = Field(
        ("present", "cut", "hidden"),
        min_length=1,
        description="What is left of the picture while latents are changed (interventions): all of it; nothing behind "
        "the span; nothing at all. Each takes as long as the others.",
    )
    noise_scales: tuple[float, ...] = Field(
        (0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
        min_length=1,
        description="Gaussian noise added to latents, in units of the latents' own standard deviation over instances.",
    )
    resamples: Positive = Field(1000, description="Bootstrap samples of the instances behind an interval.")
    folds: int = Field(5, ge=2, description="Folds of the probes: every instance is held out once.")
    shuffles: Positive = Field(20, description="Probes of shuffled labels beside every probe.")
    penalties: tuple[float, ...] = Field(
        (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0),
        min_length=1,
        description="Ridge penalties tried on an inner split, in units of the features' mean variance.",
    )
    chain_shares: tuple[float, ...] = Field(
        (0.25, 0.5, 0.75), description="Shares of a text chain's words that are kept where it is cut short."
    )
