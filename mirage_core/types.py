"""The frozen records that packages exchange: problems, images, reasoning chains, artifacts, predictions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Split = Literal["train", "validation", "test"]
Variant = Literal["direct", "cot"]
IMAGE_PLACE = "<abs_vis_token></abs_vis_token>"
"""In a caption: the place of a further auxiliary image, as in Monet-SFT-125K."""
OBSERVED = ("<observation>", "</observation>")
"""In a caption: they enclose the words that only the auxiliary image before them tells, as in Monet-SFT-125K."""
_MARKS = re.compile("|".join(map(re.escape, (IMAGE_PLACE, *OBSERVED))))


def split_marked(text: str) -> tuple[str, str]:
    """Split the text after a chain's first image into its caption, up to the last mark, and what follows it."""
    end = max((mark.end() for mark in _MARKS.finditer(text)), default=0)
    return text[:end], text[end:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question about one or more images, with its reference answer.

    ``question`` has one ``<image>`` at the position of each image. ``images`` are encoded (PNG or JPEG bytes).
    ``group`` is the key by which accuracy is broken down ("level-3"). ``facts`` are JSON values for the scorer and
    the oracle teacher (the map, the plan); a model never sees them.
    """

    id: str
    benchmark: str
    split: Split
    group: str
    question: str
    images: tuple[bytes, ...]
    answer: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuxiliaryImage:
    """The image that a chain imagines: encoded bytes, its style ("arrows"), and details.

    ``frames``: the images of a film in their order; empty: the one picture. With a film ``details`` hold the number of
    its ``frames``, and lists as long where a world knows its state: ``cells`` (what changed there) and ``kinds``. Where
    it was quantised (explicit visual tokens) they hold its ``codes``.
    """

    problem_id: str
    image: bytes
    style: str
    details: Mapping[str, Any] = field(default_factory=dict)
    frames: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvidedImage:
    """An auxiliary image that a data set itself provides for a problem, and the chain's text around it, if any.

    ``frames``: all images in their order where the data set has several, and ``auxiliary_images.film`` asks for them.
    """

    problem_id: str
    image: bytes
    style: str
    text_before: str | None = None
    text_after: str | None = None
    frames: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningChain:
    """The answer a student learns, with text on both sides of the imagined image.

    Paper, section 3.1: o = (text_before, I, text_after). ``teacher`` names its author ("oracle" for the solver's own
    knowledge). ``caption`` describes the image, for students that imagine in text (CapImagine, arXiv 2602.22766). That
    of a data set may have marks: tags around observed words, and the places of further images, which are then the
    frames of the auxiliary image, all of them.
    """

    problem_id: str
    variant: Variant
    text_before: str
    text_after: str
    teacher: str
    caption: str = ""

    @property
    def words(self) -> str:
        """The caption without marks."""
        return _MARKS.sub("", self.caption)

    @property
    def marked(self) -> bool:
        """Whether the caption has marks, as those of a data set with several images in a chain (Monet)."""
        return _MARKS.search(self.caption) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A teacher's answer that was not accepted, and why.

    ``reason`` is one word for counts ("wrong-answer"), ``faults`` lists everything that is wrong, ``answer`` is the
    text. ``left_out``: it was the last attempt, so the problem is left out of training.
    """

    problem_id: str
    benchmark: str
    split: Split
    group: str
    variant: Variant
    teacher: str
    attempt: int
    reason: str
    faults: str
    answer: str
    left_out: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExample:
    """A problem, the image to imagine, and the chain around it."""

    problem: Problem
    auxiliary_image: AuxiliaryImage
    chain: ReasoningChain

    @property
    def film(self) -> tuple[bytes, ...]:
        """The frames of the auxiliary image's film; none where these are the several images of a chain."""
        return () if self.chain.marked else self.auxiliary_image.frames


class Artifact(BaseModel):
    """A handle to a complete artifact in the store: small, JSON, safe to pass between tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(description="What it is: problems, examples, model, evaluation, report, ...")
    path: str = Field(description="Its folder inside the store, relative to the store's root.")
    digest: str = Field(description="sha256 over the names, sizes and digests of its files.")
    summary: dict[str, Any] = Field(default_factory=dict, description="A few figures for people.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSpan:
    """``num_latents`` latents in an output, before its token ``position``."""

    position: int
    num_latents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A model's answer to one problem.

    ``output`` is the decoded text with each span shown as ``<latents:k>``; ``spans`` locates the latents among
    ``token_ids``; ``finished`` is False if the length limit cut the answer.
    """

    problem_id: str
    benchmark: str
    group: str
    method: str
    sample: int = 0
    output: str
    token_ids: tuple[int, ...]
    spans: tuple[LatentSpan, ...]
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The verdict on one prediction: ``parsed`` is None if no answer could be read."""

    problem_id: str
    correct: bool
    parsed: str | None
    rule: str


Scored = tuple[Prediction, Score]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """Progress of long work: its stage, the step reached, and the metrics of this step.

    ``state``: what the event says of the stage itself, where it begins, ends, or was found in the store.
    """

    stage: str
    state: Literal["started", "cached", "done"] | None = None
    message: str = ""
    step: int | None = None
    total: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


Progress = Callable[[ProgressEvent], None]
