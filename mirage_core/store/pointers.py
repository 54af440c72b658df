"""Named pointers: each names one artifact until it is moved, and keeps the history of its targets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mirage_core.errors import InputError
from mirage_core.types import Artifact

POINTERS = "pointers"
HISTORY = 200


class PointerTarget(BaseModel):
    """One artifact that a pointer names, since when (UTC, ISO 8601), and metadata."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: Artifact
    since: str
    about: dict[str, Any] = Field(default_factory=dict)


class Pointer(PointerTarget):
    """The current target of a name; ``history`` holds the earlier ones, newest first."""

    history: tuple[PointerTarget, ...] = ()

    def moved(self, artifact: Artifact, about: Mapping[str, Any]) -> Pointer:
        """Return the pointer to another target; the same pointer if nothing changes."""
        if (artifact, dict(about)) == (self.artifact, self.about):
            return self
        previous = PointerTarget(artifact=self.artifact, since=self.since, about=self.about)
        return new_pointer(artifact, about, (previous, *self.history)[:HISTORY])


def new_pointer(artifact: Artifact, about: Mapping[str, Any], history: tuple[PointerTarget, ...] = ()) -> Pointer:
    """Create a pointer whose target is set now."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    return Pointer(artifact=artifact, since=now, about=dict(about), history=history)


def checked_pointer(name: str) -> str:
    """Return the name if it is valid for a pointer; InputError otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise InputError(f"got the pointer name {name!r}, expected letters, digits, '.', '_', '-', such as nightly")
    return name


def pointer_key(name: str) -> str:
    """The key of a pointer's record."""
    return f"{POINTERS}/{checked_pointer(name)}.json"
