"""The teacher interface, and the result of teaching: training examples, rejections and usage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from mirage_core.types import AuxiliaryImage, Problem, ReasoningChain, Rejection, TrainingExample, Variant


class Teacher(Protocol):
    """Writes reasoning chains; ``name`` is stored in every chain as its source."""

    @property
    def name(self) -> str: ...

    def chain(self, problem: Problem, auxiliary_image: AuxiliaryImage, variant: Variant) -> ReasoningChain:
        """Write the text before and after the auxiliary image, given problem, answer and image (Paper, section 3.1)."""
        ...


ProblemWithImage = tuple[Problem, AuxiliaryImage]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeachResult:
    """Examples and rejections, in the order of the problems.

    ``usage`` depends on the answers only (tokens), ``this_run`` on this run (requests, cost, seconds); both are empty
    for a local teacher.
    """

    examples: list[TrainingExample]
    rejections: list[Rejection] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    this_run: dict[str, Any] = field(default_factory=dict)


def counts(writers: Mapping[str, int], rejections: Sequence[Rejection]) -> dict[str, Any]:
    """Count chains by writer, problems that were left out, and rejected answers by reason."""
    reasons = Counter(rejection.reason for rejection in rejections)
    return {
        "accepted": sum(writers.values()),
        "written_by": dict(sorted(writers.items())),
        "left_out": sum(rejection.left_out for rejection in rejections),
        "rejected": dict(sorted(reasons.items())),
    }
