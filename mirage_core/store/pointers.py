"""Named pointers: a name that stands for one artifact until it is moved, with where it pointed before."""

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


class Pointed(BaseModel):
    """One artifact a pointer named, since when (UTC, ISO 8601), and what was said of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: Artifact
    since: str
    about: dict[str, Any] = Field(default_factory=dict)


class Pointer(Pointed):
    """What a name stands for now; ``history`` is what it stood for before, the last one first."""

    history: tuple[Pointed, ...] = ()

    def moved(self, artifact: Artifact, about: Mapping[str, Any]) -> Pointer:
        """The pointer after it was moved; the same one where nothing changes."""
        if (artifact, dict(about)) == (self.artifact, self.about):
            return self
        past = Pointed(artifact=self.artifact, since=self.since, about=self.about)
        return new_pointer(artifact, about, (past, *self.history)[:HISTORY])


def new_pointer(artifact: Artifact, about: Mapping[str, Any], history: tuple[Pointed, ...] = ()) -> Pointer:
    """A pointer that points since now."""
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    return Pointer(artifact=artifact, since=now, about=dict(about), history=history)


def checked_pointer(name: str) -> str:
    """The name itself, if a pointer may have it; InputError otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise InputError(f"got the pointer name {name!r}, expected letters, digits, '.', '_', '-', such as nightly")
    return name


def pointer_key(name: str) -> str:
    """Where a pointer is kept."""
    return f"{POINTERS}/{checked_pointer(name)}.json"
