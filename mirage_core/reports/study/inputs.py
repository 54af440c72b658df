"""Input of a study's report besides the answers: every cell with its settings, command, budget and errors.

It is part of the report's fingerprint: field names and values must not change.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mirage_core.config import Measure, Method, Section
from mirage_core.config.section import Scalar


class CellBudget(Section):
    """What the training of a cell took after the shared base, over all stages that train its model."""

    text_steps: int = Field(0, description="Optimizer steps whose whole loss is the text's.")
    grounding_steps: int = Field(0, description="Optimizer steps of stage 1.")
    policy_updates: int = Field(0, description="Optimizer steps of GRPO.")
    examples: int = Field(0, description="Examples that supervised steps saw.")
    sampled_answers: int = Field(0, description="Answers that GRPO drew.")
    tokens: int | None = Field(0, description="Tokens that went through training passes; None where not recorded.")
    seconds: float = Field(0.0, description="Seconds of those stages, as their manifests say: of one machine, one day.")


class RunReportInput(Section):
    """A cell under one seed. ``evaluation`` names the input with its answers."""

    seed: int
    state: Literal["Completed", "Failed"]
    error: str | None = None
    command: str
    evaluation: str | None = None
    interventions: str | None = Field(None, description="The input that holds what was measured of its latents.")
    diagnosis: str | None = Field(None, description="What measures its latents alone, where the study measures them.")
    problems: str | None = Field(None, description="Digest of the problems that the seeds' test split comes from.")
    budget: CellBudget = CellBudget()
    stages: dict[str, str] = Field(default_factory=dict, description="Path in the store of every stage's artifact.")


class CellReportInput(Section):
    """A cell with one run a seed."""

    name: str
    label: str
    method: Method
    variant: str
    published: bool
    swept: tuple[str, Scalar] | None = None
    changes: tuple[str, ...] = Field((), description="What it differs in from the recipe: a.b=c.")
    runs: tuple[RunReportInput, ...]


class StudyReportInput(Section):
    """A study, as input of its report."""

    name: str
    description: str
    recipe: str
    baseline: str
    seeds: tuple[int, ...]
    cells: tuple[CellReportInput, ...]
    command: str = Field(description="What makes the whole study.")
    measures: tuple[Measure, ...] = Field((), description="What was measured of every model that has latents.")
