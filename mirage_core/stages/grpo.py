"""GRPO of the text, after any trained method: with gradient through recomputed latents where the model has them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.stages.stage import Stage, StageContext
from mirage_core.stages.training import train, use_identity


def grpo_identity(settings: Settings) -> dict[str, Any]:
    """Its own section, the rule that judges an answer, and what every training stage depends on."""
    return _identity(settings, latents=True)


def text_grpo_identity(settings: Settings) -> dict[str, Any]:
    """The same without latent settings: the model has none."""
    return _identity(settings, latents=False)


def _identity(settings: Settings, *, latents: bool) -> dict[str, Any]:
    rule = settings.evaluation.planning_rule
    return {"grpo": identity(settings.grpo), "planning_rule": rule, **use_identity(settings, latents=latents)}


def run_grpo(context: StageContext) -> dict[str, Any]:
    """Improve a model with latents on sampled answers to the training problems."""
    return train(context, "grpo")


def run_text_grpo(context: StageContext) -> dict[str, Any]:
    """Improve a model without latents on sampled answers to the training problems."""
    return train(context, "grpo", latents="off")


GRPO = Stage(
    name="grpo",
    version=2,
    kind="model",
    inputs=("model", "problems"),
    identity=grpo_identity,
    run=run_grpo,
    checkpoints=True,
    gpu=True,
)
"""After both stages."""
WITHOUT_STAGE_1_GRPO = replace(GRPO, name="without-stage-1-grpo")
DIRECT_SFT_GRPO = replace(GRPO, name="direct-sft-grpo", identity=text_grpo_identity, run=run_text_grpo)
CAPIMAGINE_GRPO = replace(DIRECT_SFT_GRPO, name="capimagine-grpo")
