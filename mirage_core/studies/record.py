"""The record of a study: its cells, the stages that ran for them, its report; one JSON under studies/."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mirage_core.errors import ArtifactDamaged, ArtifactError, ArtifactMissing
from mirage_core.pipeline.run_record import RunState, StageLine
from mirage_core.store import Store
from mirage_core.studies.scheduler import CellResult

logger = logging.getLogger(__name__)
PREFIX = "studies/"


class CellLine(BaseModel):
    """One cell under one seed."""

    model_config = ConfigDict(frozen=True)

    cell: str
    seed: int
    state: Literal["Completed", "Failed"]
    seconds: float
    error: str | None = None
    stages: tuple[StageLine, ...] = ()

    @classmethod
    def of(cls, result: CellResult) -> CellLine:
        """Return the line of a result."""
        return cls(
            cell=result.run.cell.name,
            seed=result.run.seed,
            state="Failed" if result.error else "Completed",
            seconds=round(result.seconds, 3),
            error=result.error,
            stages=result.lines,
        )


class StudyRecord(BaseModel):
    """An attempt at a study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    study: str
    recipe: str
    started: str = Field(description="UTC, ISO 8601.")
    wall_seconds: float = 0.0
    state: RunState = "Running"
    error: str | None = None
    runs: int = Field(description="Cells times seeds.")
    cells: tuple[CellLine, ...] = Field((), description="Those that have ended, in that order.")
    report: str | None = Field(None, description="The report's path in the store.")


class StudyTracker:
    """Writes ``studies/<id>.json`` at the start, after each cell, and at the end; thread-safe."""

    def __init__(self, study: str, recipe: str, runs: int, store: Store) -> None:
        now = datetime.now(UTC)
        self._store, self._lock, self._started = store, threading.Lock(), time.monotonic()
        self.record = StudyRecord(
            id=f"{now.strftime('%Y%m%dT%H%M%S.%fZ')}-{secrets.token_hex(3)}",
            study=study,
            recipe=recipe,
            started=now.isoformat(timespec="seconds"),
            runs=runs,
        )
        self._save()

    def add_cell(self, result: CellResult) -> None:
        """Record a cell that has ended."""
        with self._lock:
            self._update(cells=(*self.record.cells, CellLine.of(result)))
            self._save()

    def finish(self, state: RunState, error: str | None = None, report: str | None = None) -> StudyRecord:
        """Record the end of the study."""
        with self._lock:
            self._update(state=state, error=error, report=report or self.record.report)
            self._save()
        return self.record

    def _update(self, **changes: object) -> None:
        seconds = round(time.monotonic() - self._started, 3)
        self.record = self.record.model_copy(update={**changes, "wall_seconds": seconds})

    def _save(self) -> None:
        """Write the record; a store that does not answer is only logged, the stages raise better errors."""
        try:
            self._store.write_json(f"{PREFIX}{self.record.id}.json", self.record.model_dump(mode="json"))
        except ArtifactError as error:
            logger.warning("the record of this study could not be written: %s", error)


def newest_study(store: Store, study: str) -> StudyRecord:
    """Return the record of the newest attempt at a study with a report; ArtifactMissing where there is none."""
    for name in sorted(store.names(PREFIX), reverse=True):
        try:
            record = StudyRecord.model_validate(store.read_json(name))
        except ValidationError as error:
            fault = error.errors()[0]["msg"]
            raise ArtifactDamaged(f"{name} in {store.url} is no record of a study: {fault}") from error
        if record.study == study and record.report:
            return record
    raise ArtifactMissing(f"there is no report of the study {study} in {store.url} yet: mirage study {study} makes one")
