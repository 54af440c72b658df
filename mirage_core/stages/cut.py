"""How a stage can be cut into shards: what can be shared out, how a share is done, how the shares are put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from mirage_core.stages.stage import StageContext

Item = TypeVar("Item")


class Share(BaseModel):
    """One of ``count`` equal, contiguous parts of a stage's work."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int = Field(ge=0, description="Counted from 0.")
    count: int = Field(gt=0)

    def bounds(self, items: int) -> tuple[int, int]:
        """Where this share of so many items begins and ends; the shares together hold each item once."""
        return items * self.index // self.count, items * (self.index + 1) // self.count

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items of this share, in their order."""
        begin, end = self.bounds(len(items))
        return items[begin:end]

    def __str__(self) -> str:
        return f"{self.index + 1} of {self.count}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How a stage is cut.

    ``pieces`` says how many parts the work has at most. ``run`` does one share into the output folder. ``merge`` is
    given the folders of all shares, in order, and writes the very files that the stage's own ``run`` would have
    written, byte for byte; like ``run`` it returns the summary.
    """

    pieces: Callable[[StageContext], int]
    run: Callable[[StageContext, Share], dict[str, Any]]
    merge: Callable[[StageContext, Sequence[Path]], dict[str, Any]]
