"""What each method was given: steps, examples and kinds of supervision, so that unequal budgets are seen."""

from __future__ import annotations

from dataclasses import dataclass

from mirage_core.config import GRPOSettings, TrainSettings
from mirage_core.evaluation.curves import last_step
from mirage_core.evaluation.sources import Sources

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
    settings = sources.settings
    direct = _steps(sources, "direct-sft", settings.direct_sft)
    captioned = _steps(sources, "capimagine", settings.capimagine)
    grounding = _steps(sources, "grounding", settings.grounding)
    relaxation = _steps(sources, "relaxation", settings.relaxation)
    updates = _steps(sources, "grpo", settings.grpo)
    known = {
        "zero-shot": (0, 0, 0),
        "direct-sft": (direct, 0, 0),
        "capimagine": (captioned, 0, 0),
        "stage-1": (0, grounding, 0),
        "stage-2": (relaxation, grounding, 0),
        "grpo": (relaxation, grounding, updates),
    }
    return [_budget(sources, method, *known[method]) for method in sources.methods if method in known]


def _budget(sources: Sources, method: str, text: int, grounding: int, updates: int) -> Budget:
    settings = sources.settings
    own = {"direct-sft": settings.direct_sft, "capimagine": settings.capimagine}
    text_batch = own.get(method, settings.relaxation).batch_size
    return Budget(
        method=method,
        text_steps=text,
        grounding_steps=grounding,
        policy_updates=updates,
        examples=text * text_batch + grounding * settings.grounding.batch_size,
        sampled_answers=-(-updates // settings.grpo.updates_per_rollout)
        * settings.grpo.prompts_per_step
        * settings.grpo.group_size,
    )


def _steps(sources: Sources, stage: str, settings: TrainSettings | GRPOSettings) -> int:
    """The steps as the curves show them where the settings gave epochs or allowed an early stop, else as set."""
    if settings.steps is not None and settings.validation.patience is None:
        return settings.steps
    return last_step(sources.curves.get(stage, {})) or 0
