"""Settings of the causal analysis: its measures, and on how many problems."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mirage_core.config.section import Positive, Section

Measure = Literal[
    "similarity", "probes", "interventions", "mediation", "only-latents", "text-chain", "film", "hand-made"
]
"""A measure of a model's latents, or of its text chain."""


class AnalysisSettings(Section):
    """How to measure whether latents carry the input and drive the answer. Decoding is always greedy."""

    LATER: ClassVar[frozenset[str]] = frozenset({"span_latents"})

    measures: tuple[Measure, ...] = Field(
        ("similarity", "probes", "interventions", "mediation", "only-latents", "text-chain"),
        description="The measures of a study.",
    )
    instances: Positive = Field(
        100, description="Measured test problems, spread evenly over benchmarks and groups (arXiv 2602.22766: 100)."
    )
    batch_size: Positive = Field(50, description="Problems answered together; part of the fingerprint.")
    seed: int = Field(0, ge=0, description="Seed of donors, noise, folds, shuffles and resamples.")
    views: tuple[Literal["present", "cut", "hidden"], ...] = Field(
        ("present", "cut", "hidden"),
        min_length=1,
        description="Where the image is visible while latents are changed (interventions): everywhere; not after the "
        "span; nowhere. Each takes as long as the others.",
    )
    noise_scales: tuple[float, ...] = Field(
        (0.25, 0.5, 1.0, 2.0, 4.0, 8.0),
        min_length=1,
        description="Gaussian noise on latents, in units of the latents' standard deviation over instances.",
    )
    resamples: Positive = Field(1000, description="Bootstrap samples of the instances for an interval.")
    folds: int = Field(5, ge=2, description="Cross-validation folds of the probes.")
    shuffles: Positive = Field(20, description="Control probes with shuffled labels for every probe.")
    penalties: tuple[float, ...] = Field(
        (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0),
        min_length=1,
        description="Ridge penalties tried on an inner split, in units of the features' mean variance.",
    )
    span_latents: Positive | None = Field(
        None,
        description="Where latent.length is frames: measure the answers whose span has so many latents, since latents "
        "are exchanged between spans of one length. [default: the most frequent number]",
    )
    chain_shares: tuple[float, ...] = Field(
        (0.25, 0.5, 0.75), description="Shares of a text chain's words that remain when it is truncated."
    )
