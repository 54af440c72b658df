"""Stage ``direct-sft``: the baseline that learns the chains as text alone, on the same code path."""

from __future__ import annotations

from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.stages.stage import Stage, StageContext
from mirage_core.stages.training import train, use_identity


def direct_sft_identity(settings: Settings) -> dict[str, Any]:
    """Its own training section, and what every training stage depends on; no latent setting."""
    return {"direct_sft": identity(settings.direct_sft), **use_identity(settings, latents=False)}


def run_direct_sft(context: StageContext) -> dict[str, Any]:
    """Train the base model on the chains without latents."""
    return train(context, "text")


DIRECT_SFT = Stage(
    name="direct-sft",
    version=2,
    kind="model",
    inputs=("model", "examples"),
    identity=direct_sft_identity,
    run=run_direct_sft,
    checkpoints=True,
    gpu=True,
)
