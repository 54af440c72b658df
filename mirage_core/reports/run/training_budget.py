"""The training budget of each method: steps, examples and kinds of supervision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mirage_core.config import GRPOSettings, Settings, TrainSettings
from mirage_core.methods import METHODS, TRAIN_STAGES, get_method
from mirage_core.reports.curves import last_step
from mirage_core.reports.run.inputs import RunReportInputs

READING = (
    "Every method starts from the same base model, whose warm-up is not counted. A text-supervised step is an "
    "optimizer step whose whole loss is the cross-entropy of the answer's text; stage 1 sees the same text, but at the "
    "small weight gamma. Two methods are compared fairly only on the column you care about: equal text-supervised "
    "steps, or equal optimizer steps."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The training of one method after the shared base, in optimizer steps and in examples."""

    method: str
    text_steps: int
    grounding_steps: int
    policy_updates: int
    examples: int
    sampled_answers: int

    @property
    def optimizer_steps(self) -> int:
        """All optimizer steps of the method."""
        return self.text_steps + self.grounding_steps + self.policy_updates


def budgets(inputs: RunReportInputs) -> list[Budget]:
    """Return the budget of every evaluated method whose training is known."""
    return [
        budget_of(method, inputs.settings, {stage: _steps(inputs, stage) for stage in METHODS[method].all_stages})
        for method in inputs.methods
        if method in METHODS
    ]


def budget_of(method: str, settings: Settings, steps: Mapping[str, int]) -> Budget:
    """Return the budget of a method, given the optimizer steps of each stage that trains it."""
    counts = {"text": 0, "grounding": 0, "policy": 0}
    examples = answers = 0
    for stage in get_method(method).all_stages:
        program, taken = TRAIN_STAGES[stage].program, steps[stage]
        if program.reinforces:
            own = settings.section(program.name, GRPOSettings)
            counts["policy"] += taken
            answers += -(-taken // own.updates_per_rollout) * own.prompts_per_step * own.group_size
        else:
            counts["grounding" if program.latents == "teacher_forced" else "text"] += taken
            examples += taken * settings.section(program.name, TrainSettings).batch_size
    return Budget(
        method=method,
        text_steps=counts["text"],
        grounding_steps=counts["grounding"],
        policy_updates=counts["policy"],
        examples=examples,
        sampled_answers=answers,
    )


def _steps(inputs: RunReportInputs, stage: str) -> int:
    """Return a stage's steps: of its curves where the settings gave epochs or allowed an early stop, else as set."""
    section = inputs.settings.training(TRAIN_STAGES[stage].program.name)
    if section.steps is not None and section.validation.patience is None:
        return section.steps
    return last_step(inputs.curves.get(stage, {})) or 0
