"""What came of teaching: examples, answers that were not accepted, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mirage_core.types import AuxiliaryImage, Problem, Rejection, TrainingExample

Lesson = tuple[Problem, AuxiliaryImage]


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """Examples in the order of the problems, rejections likewise.

    ``account`` depends on the answers alone (tokens), ``passing`` on how they were come by this time (requests, money,
    seconds); both are empty for a teacher that costs nothing.
    """

    examples: list[TrainingExample]
    rejections: list[Rejection] = field(default_factory=list)
    account: dict[str, Any] = field(default_factory=dict)
    passing: dict[str, Any] = field(default_factory=dict)


def counts(writers: Mapping[str, int], rejections: Sequence[Rejection]) -> dict[str, Any]:
    """Who wrote how many chains, how many problems were left out, and why answers were rejected."""
    reasons = Counter(rejection.reason for rejection in rejections)
    return {
        "accepted": sum(writers.values()),
        "written_by": dict(sorted(writers.items())),
        "left_out": sum(rejection.left_out for rejection in rejections),
        "rejected": dict(sorted(reasons.items())),
    }
