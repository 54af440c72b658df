"""How methods are compared and shown."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mirage_core.config.section import Positive, Probability, Section

Method = Literal[
    "zero-shot", "direct-sft", "direct-sft-grpo", "auxiliary-input", "capimagine", "capimagine-grpo", "stage-1",
    "without-stage-1", "without-stage-1-grpo", "stage-2", "grpo",
]  # fmt: skip
"""What can be trained and judged. CoT SFT is direct-sft with teacher.variant=cot; grpo follows stage-2."""


class EvaluationSettings(Section):
    """How methods are compared. Greedy by default: the released temperature of 0.7 is noisy."""

    methods: tuple[Method, ...] = ("zero-shot", "direct-sft", "stage-1", "stage-2", "grpo")
    max_new_tokens: Positive = 1024
    temperature: float = Field(0.0, ge=0)
    top_p: Probability = 1.0
    samples: Positive = Field(1, description="Answers a problem; more than 1 needs a temperature above 0.")
    batch_size: Positive = 32
    planning_rule: Literal["mirage", "vsp"] = Field("mirage", description="How a plan is judged; named in every score.")


class ReportSettings(Section):
    """What the report shows."""

    trajectories: int = Field(8, ge=0, description="Sample trajectories a method and benchmark.")
    looks: bool = Field(
        False,
        description="Show for each sample what its latents look like: answers some test problems once more.",
    )
