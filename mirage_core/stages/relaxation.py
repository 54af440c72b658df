"""Stage ``relaxation``: stage 2 of the method, text loss only, gradient through the model's own latents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.stages.stage import Stage, StageContext
from mirage_core.stages.training import train, use_identity


def relaxation_identity(settings: Settings) -> dict[str, Any]:
    """Its own training section, and what every training stage depends on."""
    return {"relaxation": identity(settings.relaxation), **use_identity(settings)}


def run_relaxation(context: StageContext) -> dict[str, Any]:
    """Train a model with its own hidden states fed back."""
    return train(context, "relaxation")


RELAXATION = Stage(
    name="relaxation",
    version=2,
    kind="model",
    inputs=("model", "examples"),
    identity=relaxation_identity,
    run=run_relaxation,
    checkpoints=True,
    gpu=True,
)
WITHOUT_STAGE_1 = replace(RELAXATION, name="without-stage-1")
"""The same from the base model: latents that were never grounded. Paper, ablation."""
