"""The frozen records that cross boundaries: problems, pictures, chains, artifacts, predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Split = Literal["train", "validation", "test"]
Variant = Literal["direct", "cot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question about one or more pictures, with its reference answer.

    ``question`` holds one ``<image>`` for each picture, where that picture stands. ``images``
    are encoded pictures (PNG or JPEG bytes). ``group`` is what accuracy is broken down by
    ("level-3"). ``facts`` are JSON values the scorer and the oracle teacher need (the map, the
    plan); a model never sees them.
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
    """The picture a chain imagines: encoded bytes, how it was made ("arrows"), and details."""

    problem_id: str
    image: bytes
    style: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a data set itself brings beside a problem: the picture to imagine, and the words round it or None."""

    problem_id: str
    image: bytes
    style: str
    text_before: str | None = None
    text_after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningChain:
    """The answer a student learns, with text on both sides of the imagined picture.

    Paper, section 3.1: o = (text_before, I, text_after). ``teacher`` names who wrote it
    ("oracle" for the solver's own knowledge), so that no reader mistakes its source. ``caption`` says in words
    what the picture shows, where the imagination is taught as text (CapImagine, arXiv 2602.22766).
    """

    problem_id: str
    variant: Variant
    text_before: str
    text_after: str
    teacher: str
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A teacher's answer that was not accepted, and why.

    ``reason`` is one word to count by ("wrong-answer"), ``faults`` says everything that was wrong, ``answer`` is the
    text itself. ``left_out``: it was the last attempt, so the problem is not taught.
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
    """A problem, the picture to imagine, and the chain around it."""

    problem: Problem
    auxiliary_image: AuxiliaryImage
    chain: ReasoningChain


class Artifact(BaseModel):
    """A handle to a complete artifact in the store: small, JSON, safe to pass between tasks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(description="What it is: problems, examples, model, evaluation, report, ...")
    path: str = Field(description="Its folder inside the store, relative to the store's root.")
    digest: str = Field(description="sha256 over the names, sizes and digests of its files.")
    summary: dict[str, Any] = Field(default_factory=dict, description="A few figures for people.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSpan:
    """Where latents stood in an output: before token ``position`` of it, ``num_latents`` of them."""

    position: int
    num_latents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model answered to one problem.

    ``output`` is the decoded text with each span shown as ``<latents:k>``; ``spans`` say where
    the latents stood among ``token_ids``; ``finished`` is False when the length limit cut it.
    """

    problem_id: str
    benchmark: str
    group: str
    method: str
    output: str
    token_ids: tuple[int, ...]
    spans: tuple[LatentSpan, ...]
    finished: bool
    sample: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The verdict on one prediction: ``parsed`` is None when no answer could be read."""

    problem_id: str
    correct: bool
    parsed: str | None
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressEvent:
    """A step of long work: who works, how far it is, and the figures of this step."""

    stage: str
    message: str = ""
    step: int | None = None
    total: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


Progress = Callable[[ProgressEvent], None]


Scored = tuple[Prediction, Score]
