"""The results of the latent lens, and their file ``looks.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from mirage_core.analysis.imagined.records import ImaginedStep
from mirage_core.analysis.lens.lens import LatentLens
from mirage_core.analysis.lens.patch_matching import Match
from mirage_core.analysis.lens.pca import Projection
from mirage_core.analysis.results import Estimate, Record
from mirage_core.errors import DataError
from mirage_core.types import Problem

LENS_FILE = "looks.json"
INPUT: Literal["input"] = "input"
AUXILIARY: Literal["auxiliary"] = "auxiliary"


def named_images(problem: Problem, auxiliary: bytes | None) -> dict[str, bytes]:
    """The images of a problem and its auxiliary image, by the names that a lens gives them: input, input 2, ..."""
    images = {INPUT if at == 0 else f"{INPUT} {at + 1}": image for at, image in enumerate(problem.images)}
    return images if auxiliary is None else {**images, AUXILIARY: auxiliary}


class ShownAnswer(Record):
    """One answer and the lens on each of its latents."""

    problem_id: str
    benchmark: str
    group: str
    output: str
    verdict: Literal["right", "wrong", "unparsed", "unjudged"]
    latents: tuple[LatentLens, ...]
    imagined: tuple[ImaginedStep, ...] = Field((), description="The film, where the model has heads to read it.")


class PositionSummary(Record):
    """The lens on the latents at one index, summarised over all answers."""

    index: int
    n: int
    same_word: Estimate = Field(description="Share of answers whose first word by the head is the mean latent's.")
    distinct_words: int = Field(description="Number of different first words by the head.")
    common_word: str = Field(description="The most frequent of them.")
    common_share: float
    like_mean: dict[str, float | None] = Field(
        description="Mean correlation of an answer's map with the mean latent's, by image (input, auxiliary)."
    )


class LensResult(Record):
    """The latent lens on a clean run: a few answers in full, and figures over all."""

    instances: int
    used: int = Field(description="Answers that have latents.")
    num_latents: int
    shown: tuple[ShownAnswer, ...]
    summary: tuple[PositionSummary, ...]
    matches: tuple[Match, ...]
    projection: Projection | None = Field(description="None for fewer than three answers with latents.")


def write_lens(folder: Path, lens: LensResult) -> None:
    """Write a lens result as ``looks.json``; the same result gives the same bytes."""
    text = json.dumps(lens.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    (folder / LENS_FILE).write_text(text + "\n", encoding="utf-8")


def read_lens(folder: Path) -> LensResult:
    """Read a lens result from its folder. DataError where the file is missing or malformed."""
    file = folder / LENS_FILE
    try:
        return LensResult.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise DataError(f"{file} is no latent lens result: {error}; compute it again") from error
