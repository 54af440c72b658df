"""What a night adds to its trend when it diagnoses the model too: does the answer follow the latents?"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mirage_core.errors import ArtifactDamaged
from mirage_core.store import Store
from mirage_core.types import Artifact


class Exchange(BaseModel):
    """Latents permuted between problems, the picture in view: the change of accuracy with its interval."""

    model_config = ConfigDict(frozen=True)

    way: str = Field(description="vectors, or states: keys and values.")
    n: int
    change: float | None
    interval: tuple[float, float] | None
    follow: float | None = Field(description="Answers right for the lender's problem.")
    follow_clean: float | None = Field(description="Clean answers that are.")

    @property
    def said(self) -> str:
        """The figures in words."""
        if self.change is None or self.interval is None:
            return "–"
        low, high = self.interval
        return f"{100 * self.change:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), n = {self.n}"


class LatentsLine(BaseModel):
    """The line of a night: verdicts, exchanges, the page; or why there are none. It never makes a night fail."""

    model_config = ConfigDict(frozen=True)

    said: str
    exchanges: tuple[Exchange, ...] = ()
    page: str | None = Field(None, description="The diagnosis in the store.")


def latents_line(store: Store, page: Artifact, figures: str) -> LatentsLine:
    """Read the line from a diagnosis; ``figures`` is the name of its JSON. ArtifactDamaged where that is none."""
    try:
        told: Any = json.loads((store.fetch(page) / figures).read_text(encoding="utf-8"))
        runs = told["measures"].get("interventions", {}).get("runs", [])
        exchanges = tuple(_exchange(run) for run in runs if run["name"] == "permute" and run["seen"] == "present")
        said = str(told["verdict"]["headline"])
    except (KeyError, TypeError, AttributeError, ValueError, FileNotFoundError) as problem:
        raise ArtifactDamaged(f"{page.path}/{figures} is not a diagnosis ({problem}): diagnose again") from problem
    return LatentsLine(said=said, exchanges=exchanges, page=page.path)


def not_measured(problem: Exception) -> LatentsLine:
    """The line of a night whose diagnosis failed."""
    return LatentsLine(said=f"not measured: {problem}")


def _exchange(run: dict[str, Any]) -> Exchange:
    change, follow, clean = run["change"], run["follow"] or {}, run["follow_clean"] or {}
    ends = (change["low"], change["high"])
    return Exchange(
        way=str(run["way"]),
        n=run["n"],
        change=change["value"],
        interval=None if None in ends else ends,
        follow=follow.get("value"),
        follow_clean=clean.get("value"),
    )
