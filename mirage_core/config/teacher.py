"""Who writes the reasoning chains and captions, and what is accepted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mirage_core.config.section import Positive, Probability, Section


class TeacherSettings(Section):
    """Who writes the chains, of which form, and what is accepted. How an endpoint is reached is ``runtime.teacher``."""

    kind: Literal["oracle", "endpoint", "replay"] = Field(
        "oracle",
        description="oracle: from the solver's own knowledge; endpoint: a model behind an OpenAI-compatible API "
        "(runtime.teacher); replay: recorded answers of one.",
    )
    variant: Literal["direct", "cot"] = Field("direct", description="direct: the answer only.")
    model: str | None = Field(None, min_length=1, description="The asked model, as the endpoint names it.")
    revision: str | None = Field(
        None, min_length=1, description="What the model's name alone does not say (a commit, a quantisation)."
    )
    recording: str | None = Field(
        None, min_length=1, description="replay: a JSONL file or a folder of answers; None: those kept in the store."
    )
    template: str = Field("mirage", min_length=1, description="The prompts: a set of the project's, or a folder.")
    temperature: float | None = Field(0.0, ge=0, le=2, description="None: not sent.")
    top_p: Probability | None = Field(None, description="None: not sent.")
    seed: int | None = Field(42, ge=0, description="Sent with every request; another asks anew. None: not sent.")
    max_tokens: Positive = Field(2048, description="Longest answer, in tokens.")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="What the endpoint calls it; newer hosted models want the second."
    )
    attempts: Positive = Field(3, description="Answers a problem; a re-ask says what was wrong, the last one decides.")
    min_thought_chars: int = Field(20, ge=0, description="Shortest text before, and after, the picture.")
    max_thought_chars: Positive = Field(8000, description="Longest text before, and after, the picture.")
    betrayals: tuple[str, ...] = Field(
        (
            "as given", "given answer", "answer given", "answer is given", "provided answer", "answer provided",
            "the provided solution", "known answer", "ground truth", "ground-truth", "reference answer",
            "according to the answer", "i was told", "i am told", "auxiliary image", "helper image", "hint image",
        ),
        description="Words that betray that the answer or the picture was given; capitals and spacing do not matter.",
    )  # fmt: skip
    min_accepted: Probability = Field(
        0.8, description="Share of the problems that must get an acceptable chain; the stage fails below it."
    )

    @model_validator(mode="after")
    def _has_something_to_ask(self) -> TeacherSettings:
        """An endpoint needs a model, and something to write."""
        if self.kind == "oracle":
            return self
        if self.model is None:
            raise ValueError(f"teacher.kind {self.kind} needs teacher.model, the model's name as the endpoint knows it")
        if self.variant == "direct":
            raise ValueError(
                f"a direct chain is the answer alone, so there is nothing to ask: with teacher.kind {self.kind} set "
                "teacher.variant to cot, or take the oracle"
            )
        return self


class CaptionSettings(Section):
    """CapImagine's data: what the auxiliary image shows, in words; the teacher of the chains writes it."""

    polish: bool = Field(True, description="An endpoint rewrites each whole chain so that its parts go together.")
    judge: bool = Field(True, description="An endpoint judges each chain; conflicts and ambiguity are left out.")
    shortest: Positive = Field(10, description="Letters a caption has at least.")
    longest: Positive = Field(1200, description="Letters a caption has at most.")
