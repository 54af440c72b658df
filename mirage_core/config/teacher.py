"""Settings of the teacher that writes reasoning chains and captions, and of what is accepted."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from mirage_core.config.section import Positive, Probability, Section


class TeacherSettings(Section):
    """Who writes the chains, their form, and what is accepted. ``runtime.teacher``: how to reach an endpoint."""

    kind: Literal["oracle", "endpoint", "replay"] = Field(
        "oracle",
        description="oracle: from the solver's knowledge; endpoint: a model behind an OpenAI-compatible API "
        "(runtime.teacher); replay: recorded answers.",
    )
    variant: Literal["direct", "cot"] = Field("direct", description="direct: the answer only.")
    model: str | None = Field(None, min_length=1, description="The endpoint's name of the model.")
    revision: str | None = Field(
        None, min_length=1, description="Version of the model beyond its name (a commit, a quantisation)."
    )
    recording: str | None = Field(
        None, min_length=1, description="replay: a JSONL file or a folder of answers; None: those in the store."
    )
    template: str = Field("mirage", min_length=1, description="The prompts: a set of this project, or a folder.")
    temperature: float | None = Field(0.0, ge=0, le=2, description="None: not sent.")
    top_p: Probability | None = Field(None, description="None: not sent.")
    seed: int | None = Field(42, ge=0, description="Sent with every request; another seed asks again. None: not sent.")
    max_tokens: Positive = Field(2048, description="Longest answer, in tokens.")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="The endpoint's name of the field; newer hosted models expect the second."
    )
    attempts: Positive = Field(
        3, description="Attempts for each problem; a repeated request names the error; the last answer decides."
    )
    min_thought_chars: int = Field(20, ge=0, description="Shortest text before, and after, the image.")
    max_thought_chars: Positive = Field(8000, description="Longest text before, and after, the image.")
    betrayals: tuple[str, ...] = Field(
        (
            "as given", "given answer", "answer given", "answer is given", "provided answer", "answer provided",
            "the provided solution", "known answer", "ground truth", "ground-truth", "reference answer",
            "according to the answer", "i was told", "i am told", "auxiliary image", "helper image", "hint image",
        ),
        description="Phrases that reveal that the answer or the image was given; case and spacing are ignored.",
    )  # fmt: skip
    min_accepted: Probability = Field(
        0.8, description="Smallest share of problems with an accepted chain; below it the stage fails."
    )

    @model_validator(mode="after")
    def _has_something_to_ask(self) -> TeacherSettings:
        """An endpoint needs a model, and a chain to write."""
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
    """Captions of auxiliary images for CapImagine, written by the teacher of the chains."""

    LATER: ClassVar[frozenset[str]] = frozenset({"of"})

    of: Literal["image", "film"] = Field(
        "image",
        description="What the oracle puts into words. image: the auxiliary image; film: place and kind of every frame, "
        "in order (auxiliary_images.film): what the latents of stepwise grounding must tell, as text.",
    )
    polish: bool = Field(True, description="An endpoint rewrites each chain so that its parts fit together.")
    judge: bool = Field(
        True, description="An endpoint judges each chain; contradictory and ambiguous ones are left out."
    )
    shortest: Positive = Field(10, description="Fewest letters of a caption.")
    longest: Positive = Field(1200, description="Most letters of a caption.")
