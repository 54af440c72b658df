"""The rule by which reports select the answers that they show, and its implementation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from mirage_core.types import Scored

SELECTION_RULE = (
    "Test problems are put in one fixed order, by the sha256 of seed and problem id, the same for every method. A "
    "method shows the first right and the first wrong answers of that order, half and half where both exist; nothing "
    "is picked by hand."
)


def select_samples(scored: Sequence[Scored], count: int, seed: int) -> list[Scored]:
    """Select up to ``count`` answers of one method and benchmark by SELECTION_RULE, right ones first."""
    order = sorted((pair for pair in scored if pair[0].sample == 0), key=lambda pair: _rank(pair[0].problem_id, seed))
    right = [pair for pair in order if pair[1].correct]
    wrong = [pair for pair in order if not pair[1].correct]
    num_wrong = min(len(wrong), max(count // 2, count - len(right)))
    return right[: count - num_wrong] + wrong[:num_wrong]


def _rank(problem_id: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{problem_id}".encode()).hexdigest()
