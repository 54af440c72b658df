"""The book of a run: every stage with its state and seconds, kept as the run's record in the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType

from mirage_core.config import Settings, identity
from mirage_core.errors import ArtifactError
from mirage_core.stages.record import RunRecord, RunState, StageLine, first_line, new_record, save_record, scores_of
from mirage_core.stages.stage import StageResult
from mirage_core.store import Store
from mirage_core.types import Artifact

logger = logging.getLogger(__name__)


class RunBook:
    """Writes ``runs/<id>.json`` when the run ends, however it ends; use it as a context."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.record: RunRecord = new_record(settings.recipe, identity(settings))
        self._store = store
        self._started = time.monotonic()
        self._lines: list[StageLine] = []
        self._artifacts: list[Artifact] = []

    def stage(self, name: str, work: Callable[[], tuple[Artifact, bool]]) -> Artifact:
        """Do one stage's ``work`` (its artifact, and whether it was cached) and note how it went."""
        begun = time.monotonic()
        try:
            artifact, cached = work()
        except BaseException as problem:
            self._lines.append(failed_line(name, time.monotonic() - begun, problem))
            raise
        result = StageResult(artifact=artifact, cached=cached, seconds=time.monotonic() - begun)
        self._lines.append(stage_line(name, result))
        self._artifacts.append(artifact)
        return artifact

    def __enter__(self) -> RunBook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if problem is None:
            self._close("Completed", None)
            return
        try:
            self._close("Failed", first_line(problem))
        except ArtifactError as other:  # the store may be what failed: the first error matters more
            logger.warning("the record of this run could not be written: %s", other)

    def _close(self, state: RunState, error: str | None) -> None:
        self.record = self.record.model_copy(
            update={
                "state": state,
                "error": error,
                "wall_seconds": round(time.monotonic() - self._started, 3),
                "stages": tuple(self._lines),
                "scores": scores_of(self._artifacts),
            }
        )
        save_record(self._store, self.record)


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
