"""The records of looks at latents, and their file ``looks.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from mirage_core.analysis.lens.lens import LatentLook
from mirage_core.analysis.lens.patch_matching import Match
from mirage_core.analysis.lens.pca import Projection
from mirage_core.analysis.results import Estimate, Record
from mirage_core.errors import DataError

LOOKS_FILE = "looks.json"
INPUT: Literal["input"] = "input"
AUXILIARY: Literal["auxiliary"] = "auxiliary"


class ShownAnswer(Record):
    """One answer and the looks at each of its latents."""

    problem_id: str
    benchmark: str
    group: str
    output: str
    verdict: Literal["right", "wrong", "unparsed", "unjudged"]
    latents: tuple[LatentLook, ...]


class PlaceSummary(Record):
    """What the looks at one latent have in common over all answers."""

    index: int
    n: int
    same_word: Estimate = Field(description="Share of answers whose first word by the head is the mean latent's.")
    distinct_words: int = Field(description="Different first words by the head.")
    common_word: str = Field(description="The commonest of them.")
    common_share: float
    like_mean: dict[str, float | None] = Field(
        description="Mean correlation of an answer's map with the mean latent's, by picture (input, auxiliary)."
    )


class LooksResult(Record):
    """Looks at latents: a few answers in full, and figures over all."""

    instances: int
    used: int = Field(description="Answers that have latents.")
    num_latents: int
    shown: tuple[ShownAnswer, ...]
    summary: tuple[PlaceSummary, ...]
    matches: tuple[Match, ...]
    projection: Projection | None = Field(description="None for fewer than three answers with latents.")


def write_looks(folder: Path, looks: LooksResult) -> None:
    """Write looks as ``looks.json``: the same looks, the same bytes."""
    text = json.dumps(looks.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
    (folder / LOOKS_FILE).write_text(text + "\n", encoding="utf-8")


def read_looks(folder: Path) -> LooksResult:
    """Read looks from their folder. DataError where the file is missing or of another form."""
    file = folder / LOOKS_FILE
    try:
        return LooksResult.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise DataError(f"{file} does not hold looks at latents: {error}; take them again") from error
