"""Run the whole road in this process, without an orchestrator, and keep its record in the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from mirage_core.config import Settings, identity
from mirage_core.errors import ArtifactError
from mirage_core.stages.record import RunRecord, RunState, StageLine, first_line, new_record, save_record, scores_of
from mirage_core.stages.registry import STAGES
from mirage_core.stages.road import road
from mirage_core.stages.stage import StageResult, label, run_stage
from mirage_core.store import Store
from mirage_core.types import Artifact, Progress

logger = logging.getLogger(__name__)


def run_road(settings: Settings, store: Store, progress: Progress) -> RunRecord:
    """Walk the road stage after stage; the record is written whatever happens, errors are raised on.

    Returns the completed record (``runs/<id>.json`` in the store).
    """
    record = new_record(settings.recipe, identity(settings))
    started = time.monotonic()
    lines: list[StageLine] = []
    artifacts: list[Artifact] = []

    def step(name: str, params: Mapping[str, Any], /, **inputs: Artifact) -> Artifact:
        begun = time.monotonic()
        try:
            result = run_stage(STAGES[name], settings, inputs, store, progress, params)
        except BaseException as problem:
            lines.append(failed_line(label(name, params), time.monotonic() - begun, problem))
            raise
        lines.append(stage_line(label(name, params), result))
        artifacts.append(result.artifact)
        return result.artifact

    def finished(state: RunState, error: str | None = None) -> RunRecord:
        return record.model_copy(
            update={
                "state": state,
                "error": error,
                "wall_seconds": round(time.monotonic() - started, 3),
                "stages": tuple(lines),
                "scores": scores_of(artifacts),
            }
        )

    try:
        road(settings, step)
    except BaseException as problem:
        try:
            save_record(store, finished("Failed", first_line(problem)))
        except ArtifactError as other:  # the store may be what failed: the first error matters more
            logger.warning("the record of this run could not be written: %s", other)
        raise
    complete = finished("Completed")
    save_record(store, complete)
    return complete


def stage_line(name: str, result: StageResult) -> StageLine:
    """The record's line of a stage that gave its artifact."""
    return StageLine(
        name=name,
        state="Cached" if result.cached else "Completed",
        cached=result.cached,
        seconds=round(result.seconds, 3),
        digest=result.artifact.digest,
        path=result.artifact.path,
    )


def failed_line(name: str, seconds: float, problem: BaseException) -> StageLine:
    """The record's line of a stage that failed."""
    return StageLine(name=name, state="Failed", seconds=round(seconds, 3), error=first_line(problem))
