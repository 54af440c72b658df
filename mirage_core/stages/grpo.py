"""Stage ``grpo``: group relative policy optimisation of the text, gradient through recomputed latents."""

from __future__ import annotations

from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.stages.stage import Stage, StageContext
from mirage_core.stages.training import train, use_identity


def grpo_identity(settings: Settings) -> dict[str, Any]:
    """Its own section, the rule that judges an answer, and what every training stage depends on."""
    rule = settings.evaluation.planning_rule
    return {"grpo": identity(settings.grpo), "planning_rule": rule, **use_identity(settings)}


def run_grpo(context: StageContext) -> dict[str, Any]:
    """Improve the relaxed model on sampled answers to the training problems."""
    return train(context, "grpo")


GRPO = Stage(
    name="grpo",
    version=1,
    kind="model",
    inputs=("model", "problems"),
    identity=grpo_identity,
    run=run_grpo,
    checkpoints=True,
    gpu=True,
)
