"""Settings of evaluation and report."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mirage_core.config.section import Method, Positive, Probability, Section


class EvaluationSettings(Section):
    """How methods are evaluated. Greedy by default: the released temperature of 0.7 is noisy."""

    LATER: ClassVar[frozenset[str]] = frozenset({"blind"})

    methods: tuple[Method, ...] = ("zero-shot", "direct-sft", "stage-1", "stage-2", "grpo")
    max_new_tokens: Positive = 1024
    temperature: float = Field(0.0, ge=0)
    top_p: Probability = 1.0
    samples: Positive = Field(1, description="Answers for each problem; more than 1 needs a temperature above 0.")
    batch_size: Positive = 32
    planning_rule: Literal["mirage", "vsp"] = Field(
        "mirage", description="The rule that judges plans; recorded in every score."
    )
    blind: bool = Field(
        False, description="Evaluate every method once more without the picture, to compare its accuracy with."
    )


class ReportSettings(Section):
    """The content of the report."""

    trajectories: int = Field(8, ge=0, description="Sample trajectories for each method and benchmark.")
    latent_lens: bool = Field(
        False,
        description="Show a latent lens for each sample: its test problems are answered once more.",
    )
