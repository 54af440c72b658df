"""Stage ``capimagine``: the imagination learned as text, by fine-tuning on captioned chains (arXiv 2602.22766)."""

from __future__ import annotations

from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.stages.stage import Stage, StageContext
from mirage_core.stages.training import train, use_identity


def capimagine_identity(settings: Settings) -> dict[str, Any]:
    """Its own training section, and what every training stage depends on; no latent setting."""
    return {"capimagine": identity(settings.capimagine), **use_identity(settings, latents=False)}


def run_capimagine(context: StageContext) -> dict[str, Any]:
    """Train the base model on chains whose pictures are captions, without latents."""
    return train(context, "capimagine")


CAPIMAGINE = Stage(
    name="capimagine",
    version=2,
    kind="model",
    inputs=("model", "examples"),
    identity=capimagine_identity,
    run=run_capimagine,
    checkpoints=True,
    gpu=True,
)
