"""The record of a run: its stages, seconds and scores; one JSON in the store under runs/."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mirage_core.errors import ArtifactDamaged, ArtifactMissing
from mirage_core.store import Store
from mirage_core.types import Artifact

RunState = Literal["Running", "Completed", "Failed", "Cancelled", "Crashed"]
"""Crashed: killed, as a later attempt at the same run found; a killed run without one stays Running."""
StageState = Literal["Completed", "Cached", "Failed"]


class StageLine(BaseModel):
    """One stage of a run."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: StageState
    cached: bool = False
    seconds: float = 0.0
    digest: str | None = None
    path: str | None = None
    error: str | None = Field(None, description="The first line of the error, where it failed.")


class ScoreLine(BaseModel):
    """One row of the score table; ``level`` is "all" for a whole benchmark."""

    model_config = ConfigDict(frozen=True)

    benchmark: str
    method: str
    level: str
    accuracy: float
    interval: tuple[float, float]
    n: int
    unparsed: int
    latent_share: float | None = Field(None, description="Share of answers that used latents.")
    rule: str | None = Field(None, description="How answers were judged.")


class Attempt(BaseModel):
    """An earlier attempt at the same run, in short; it has a record of its own."""

    model_config = ConfigDict(frozen=True)

    id: str
    started: str
    state: RunState
    wall_seconds: float

    @classmethod
    def of(cls, record: RunRecord) -> Attempt:
        """Return the attempt of a record; one that is still Running was killed."""
        state: RunState = "Crashed" if record.state == "Running" else record.state
        return cls(id=record.id, started=record.started, state=state, wall_seconds=record.wall_seconds)


class RunRecord(BaseModel):
    """An attempt at a run of the pipeline (or of a part of it), as ``mirage report --json`` prints it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    flow_run: str | None = Field(None, description="The orchestrator's id of the run, the same in every attempt.")
    attempts: tuple[Attempt, ...] = Field((), description="The attempts at this run before this one, oldest first.")
    faults: tuple[str, ...] = Field((), description="Artifacts found damaged or missing, and produced again.")
    recipe: str
    started: str = Field(description="UTC, ISO 8601.")
    wall_seconds: float = Field(0.0, description="Of this attempt; of a killed one, up to its last finished stage.")
    state: RunState = "Running"
    error: str | None = None
    stages: tuple[StageLine, ...] = ()
    scores: tuple[ScoreLine, ...] = ()
    settings: dict[str, Any] = Field(default_factory=dict, description="The resolved settings.")


def new_record(recipe: str, settings: dict[str, Any], flow_run: str | None = None) -> RunRecord:
    """Return an empty record that starts now; the first digits of ``flow_run`` (a UUID) end its id."""
    now = datetime.now(UTC)
    name = f"{now.strftime('%Y%m%dT%H%M%S.%fZ')}-{flow_run[:8] if flow_run else secrets.token_hex(3)}"
    return RunRecord(
        id=name, flow_run=flow_run, recipe=recipe, started=now.isoformat(timespec="seconds"), settings=settings
    )


def earlier_attempts(store: Store, record: RunRecord) -> list[RunRecord]:
    """Return the records of the attempts at the same flow run before this one, oldest first."""
    if record.flow_run is None:
        return []
    suffix = f"-{record.id.rpartition('-')[2]}.json"
    names = [name for name in store.names("runs/") if name.endswith(suffix) and name != f"runs/{record.id}.json"]
    records = (load_record(store, name) for name in sorted(names))
    return [earlier for earlier in records if earlier.flow_run == record.flow_run]


def scores_of(artifacts: Iterable[Artifact]) -> tuple[ScoreLine, ...]:
    """Return the score rows in the summaries of evaluations; other artifacts are ignored."""
    rows = (row for artifact in artifacts if artifact.kind == "evaluation" for row in artifact.summary["scores"])
    return tuple(ScoreLine.model_validate(row) for row in rows)


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def save_record(store: Store, record: RunRecord) -> str:
    """Write (or overwrite) the record; returns its name in the store."""
    name = f"runs/{record.id}.json"
    store.write_json(name, record.model_dump(mode="json"))
    return name


def load_record(store: Store, name: str) -> RunRecord:
    """Read one record; ArtifactMissing or ArtifactDamaged name it."""
    try:
        return RunRecord.model_validate(store.read_json(name))
    except ValidationError as error:
        raise ArtifactDamaged(f"{name} in {store.url} is not a run record: {error.errors()[0]['msg']}") from error


def newest_record(store: Store) -> RunRecord:
    """Return the record of the run that started last; ArtifactMissing where there was none."""
    names = store.names("runs/")
    if not names:
        raise ArtifactMissing(f"there is no run in {store.url} yet: start one with `mirage run` or `make run`")
    return load_record(store, max(names))
