"""What a teacher is: something that writes a chain round a problem's imagined picture."""

from __future__ import annotations

from typing import Protocol

from mirage_core.types import AuxiliaryImage, Problem, ReasoningChain, Variant


class Teacher(Protocol):
    """Writes chains; ``name`` is put into every chain, so that no reader mistakes its source."""

    @property
    def name(self) -> str: ...

    def chain(self, problem: Problem, auxiliary_image: AuxiliaryImage, variant: Variant) -> ReasoningChain:
        """The text on both sides of the picture, given the problem, its answer and the picture (Paper, section 3.1)."""
        ...
