"""The file of a measure's result, and the class of every measure's result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from mirage_core.analysis.results import (
    FilmResult,
    HandMadeResult,
    InterventionsResult,
    MediationResult,
    OnlyLatentsResult,
    ProbesResult,
    Record,
    SimilarityResult,
    TextChainResult,
)
from mirage_core.errors import DataError, InputError

RESULT_FILE = "measure.json"
AnyResult = TypeVar("AnyResult", bound=Record)

RESULTS: dict[str, type[Record]] = {
    "similarity": SimilarityResult,
    "probes": ProbesResult,
    "interventions": InterventionsResult,
    "mediation": MediationResult,
    "only-latents": OnlyLatentsResult,
    "text-chain": TextChainResult,
    "film": FilmResult,
    "hand-made": HandMadeResult,
}
"""The result class of every measure, by its name (the stage parameter ``measure``)."""


def write_result(folder: Path, result: Record) -> None:
    """Write a result as ``measure.json``; the same result gives the same bytes."""
    text = json.dumps(result.model_dump(mode="json"), indent=1, allow_nan=False)
    (folder / RESULT_FILE).write_text(text + "\n", encoding="utf-8")


def read_result(folder: Path, kind: type[AnyResult]) -> AnyResult:
    """Read a result from its folder. DataError where the file is missing or malformed."""
    file = folder / RESULT_FILE
    try:
        return kind.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise DataError(f"{file} is no {kind.__name__}: {error}; compute the measure again") from error


def result_kind(measure: str) -> type[Record]:
    """The result class of a measure; InputError names the known measures."""
    if measure not in RESULTS:
        raise InputError(f"got the measure {measure!r}, expected one of {', '.join(RESULTS)}")
    return RESULTS[measure]
