"""Render requests: the description of a scene and its own seed, so that a frame does not depend on its batch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mirage_core.benchmarks.io.jsonl import read_rows
from mirage_core.benchmarks.multiple_choice import LETTERS
from mirage_core.config import SceneSettings
from mirage_core.errors import DataError, SettingsError
from mirage_core.types import Problem


@dataclass(frozen=True, slots=True)
class SceneRequest:
    """One frame to render, for the problem of this id."""

    problem_id: str
    description: str
    seed: int


def scene_requests(problems: Sequence[Problem], settings: SceneSettings, seed: int) -> list[SceneRequest]:
    """Return a request for each problem; DataError if the file of descriptions lacks one."""
    descriptions = read_descriptions(settings.descriptions) if settings.descriptions else None
    return [SceneRequest(p.id, _description(p, settings, descriptions), seed_of(seed, p.id)) for p in problems]


def read_descriptions(file: str) -> dict[str, str]:
    """Read the descriptions of a JSONL file by problem id; DataError names file and line."""
    return {row.text("id"): row.text("description") for row in read_rows(Path(file).expanduser())}


def seed_of(seed: int, problem_id: str) -> int:
    """Return the seed of a frame, below 2**63."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{problem_id}".encode()).digest()[:8], "big") >> 1


def _description(problem: Problem, settings: SceneSettings, descriptions: Mapping[str, str] | None) -> str:
    if descriptions is not None:
        if problem.id not in descriptions:
            raise DataError(f"{settings.descriptions} has no description of the problem {problem.id}: add a line")
        return descriptions[problem.id]
    options = problem.facts.get("options", [])
    right = options[LETTERS.index(problem.answer)] if options else problem.answer
    question = str(problem.facts.get("scene", problem.question))
    try:
        return settings.description.format(question=question, answer=right)
    except (KeyError, IndexError, ValueError) as error:
        raise SettingsError(
            f"auxiliary_images.scenes.description is {settings.description!r}, which names {error}; "
            "expected {question} and {answer} only"
        ) from error
