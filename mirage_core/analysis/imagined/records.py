"""What the heads of stepwise grounding read off one latent, as a record."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from mirage_core.analysis.results import Record

Place = tuple[int, int]


class Kind(Record):
    """What stands at a place: the world's own name or the number of an appearance, and its probability."""

    name: str
    probability: float


class ImaginedStep(Record):
    """One latent of an answer: where its frame changed and what is there, as imagined, and the truth where known."""

    index: int
    places: tuple[tuple[float, ...], ...] = Field((), description="Probability of each place, [rows][columns].")
    place: Place | None = Field(
        None, description="The likeliest of all places (row, column), counted from 0; a small map may not have it."
    )
    kinds: tuple[Kind, ...] = Field((), description="Likeliest first.")
    true_places: tuple[Place, ...] = Field((), description="Empty: unknown.")
    true_kind: str | None = None
    frame: int | None = Field(None, description="The frame that the latent is held to; None: no film is known.")
    after_end: bool = Field(False, description="The film is over.")

    @property
    def place_right(self) -> bool | None:
        """Whether the likeliest place is one that changed; None: unknown, or not imagined."""
        return self.place in self.true_places if self.place is not None and self.true_places else None

    @property
    def kind_right(self) -> bool | None:
        """Whether the likeliest kind is the true one; None: unknown, or not imagined."""
        return self.kinds[0].name == self.true_kind if self.kinds and self.true_kind is not None else None

    @property
    def right(self) -> bool | None:
        """Whether all that is known of it is right; None where nothing is known."""
        known = [value for value in (self.place_right, self.kind_right) if value is not None]
        return all(known) if known else None


def first_wrong(film: Sequence[ImaginedStep]) -> int | None:
    """The index of the first step up to the end of the film that is not right; None: all are right."""
    return next((step.index for step in up_to_end(film) if step.right is False), None)


def up_to_end(film: Sequence[ImaginedStep]) -> tuple[ImaginedStep, ...]:
    """The steps up to the end of the true film; all where none is known."""
    return tuple(step for step in film if not step.after_end)
