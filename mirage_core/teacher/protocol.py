"""What a teacher is: something that writes a chain round a problem's imagined picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mirage_core.types import AuxiliaryImage, Problem, ReasoningChain, Rejection, TrainingExample, Variant


class Teacher(Protocol):
    """Writes chains; ``name`` is put into every chain, so that no reader mistakes its source."""

    @property
    def name(self) -> str: ...

    def chain(self, problem: Problem, auxiliary_image: AuxiliaryImage, variant: Variant) -> ReasoningChain:
        """The text on both sides of the picture, given the problem, its answer and the picture (Paper, section 3.1)."""
        ...


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
