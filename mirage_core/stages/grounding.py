"""Stage ``grounding``: stage 1 of the method, latents pulled towards the picture's features. Paper, Eq. 2-3."""

from __future__ import annotations

from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.stages.stage import Stage, StageContext
from mirage_core.stages.training import train, use_identity


def grounding_identity(settings: Settings) -> dict[str, Any]:
    """Its own training section, and what every training stage depends on."""
    return {"grounding": identity(settings.grounding), **use_identity(settings)}


def run_grounding(context: StageContext) -> dict[str, Any]:
    """Train the base model with the targets fed at the latent positions."""
    return train(context, "grounding")


GROUNDING = Stage(
    name="grounding",
    version=2,
    kind="model",
    inputs=("model", "examples"),
    identity=grounding_identity,
    run=run_grounding,
    checkpoints=True,
    gpu=True,
)
