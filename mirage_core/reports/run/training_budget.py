"""What each method was given: steps, examples and kinds of supervision, so that unequal budgets are seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mirage_core.config import GRPOSettings, Settings, TrainSettings
from mirage_core.reports.run.curves import last_step
from mirage_core.reports.run.inputs import Sources

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


def budgets(sources: Sources) -> list[Budget]:
    """Return the budget of every evaluated method whose training is known."""
    return [_budget(sources, method, TRAINING[method]) for method in sources.methods if method in TRAINING]


TRAINING: dict[str, tuple[str, ...]] = {
    "zero-shot": (),
    "direct-sft": ("direct-sft",),
    "direct-sft-grpo": ("direct-sft", "direct-sft-grpo"),
    "auxiliary-input": ("auxiliary-input",),
    "capimagine": ("capimagine",),
    "capimagine-grpo": ("capimagine", "capimagine-grpo"),
    "stage-1": ("grounding",),
    "without-stage-1": ("without-stage-1",),
    "without-stage-1-grpo": ("without-stage-1", "without-stage-1-grpo"),
    "stage-2": ("grounding", "relaxation"),
    "grpo": ("grounding", "relaxation", "grpo"),
}
"""The stages that train each method after the shared base."""


def section_of(settings: Settings, stage: str) -> TrainSettings | GRPOSettings:
    """The settings that a training stage reads."""
    if stage.endswith("grpo"):
        return settings.grpo
    sections: dict[str, TrainSettings] = {
        "direct-sft": settings.direct_sft,
        "auxiliary-input": settings.direct_sft,
        "capimagine": settings.capimagine,
        "grounding": settings.grounding,
        "without-stage-1": settings.relaxation,
        "relaxation": settings.relaxation,
    }
    return sections[stage]


def budget_of(method: str, settings: Settings, steps: Mapping[str, int]) -> Budget:
    """The budget of a method, given the optimizer steps of each stage that trains it."""
    given = {"text": 0, "grounding": 0, "policy": 0}
    examples = answers = 0
    for stage in TRAINING[method]:
        section, taken = section_of(settings, stage), steps[stage]
        kind = "policy" if isinstance(section, GRPOSettings) else "grounding" if stage == "grounding" else "text"
        given[kind] += taken
        if isinstance(section, GRPOSettings):
            answers += -(-taken // section.updates_per_rollout) * section.prompts_per_step * section.group_size
        else:
            examples += taken * section.batch_size
    return Budget(
        method=method,
        text_steps=given["text"],
        grounding_steps=given["grounding"],
        policy_updates=given["policy"],
        examples=examples,
        sampled_answers=answers,
    )


def _budget(sources: Sources, method: str, stages: tuple[str, ...]) -> Budget:
    steps = {stage: _steps(sources, stage, section_of(sources.settings, stage)) for stage in stages}
    return budget_of(method, sources.settings, steps)


def _steps(sources: Sources, stage: str, settings: TrainSettings | GRPOSettings) -> int:
    """The steps as the curves show them where the settings gave epochs or allowed an early stop, else as set."""
    if settings.steps is not None and settings.validation.patience is None:
        return settings.steps
    return last_step(sources.curves.get(stage, {})) or 0
