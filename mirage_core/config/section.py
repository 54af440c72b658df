"""What every group of settings shares: frozen, unknown keys refused; the types of single settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Level = Annotated[int, Field(ge=3, le=8)]
Positive = Annotated[int, Field(gt=0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
StageName = Literal[
    "problems", "auxiliary-images", "base", "examples", "auxiliary-problems", "auxiliary-examples", "captions",
    "direct-sft", "auxiliary-input", "capimagine", "grounding", "without-stage-1", "relaxation", "direct-sft-grpo",
    "capimagine-grpo", "without-stage-1-grpo", "grpo", "evaluation", "report",
]  # fmt: skip


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    # An error's text goes into logs: what was typed (a URL with a password in it) does not.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True)


def identity(section: BaseModel) -> dict[str, Any]:
    """The JSON form of a settings section, as it enters a fingerprint."""
    return section.model_dump(mode="json")


Scalar = bool | int | float | str
