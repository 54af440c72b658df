"""The book of a run: every stage with its state and seconds, kept as the run's record in the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType

from mirage_core.config import Settings, identity
from mirage_core.errors import ArtifactError
from mirage_core.pipeline.recovery import retried
from mirage_core.pipeline.run_record import (
    Attempt,
    RunRecord,
    RunState,
    StageLine,
    earlier_attempts,
    first_line,
    new_record,
    save_record,
    scores_of,
)
from mirage_core.pipeline.stage import StageResult
from mirage_core.store import Store
from mirage_core.types import Artifact

logger = logging.getLogger(__name__)


class RunBook:
    """Writes ``runs/<id>.json`` when the run starts, after each stage, and when it ends, however it ends.

    Use it as a context. ``flow_run`` is the orchestrator's name of the run, the same in every attempt at it: the
    attempts before this one are then told in the record, and one that was killed is marked Crashed.
    """

    def __init__(self, settings: Settings, store: Store, flow_run: str | None = None) -> None:
        self.record: RunRecord = new_record(settings.recipe, identity(settings), flow_run)
        self._store = store
        self._started = time.monotonic()
        self._lines: dict[str, StageLine] = {}
        self._artifacts: dict[str, Artifact] = {}

    def stage(self, name: str, work: Callable[[], tuple[Artifact, bool]]) -> Artifact:
        """Do one stage's ``work`` (its artifact, and whether it was cached) and note how it went."""
        begun = time.monotonic()
        try:
            artifact, cached = work()
        except BaseException as error:
            self._note(failed_line(name, time.monotonic() - begun, error))
            raise
        self._note(stage_line(name, StageResult(artifact=artifact, cached=cached, seconds=time.monotonic() - begun)))
        self._artifacts[name] = artifact
        self._keep("Running")
        return artifact

    def lost(self, said: str) -> None:
        """Note what was found damaged or missing, and is made again."""
        self.record = self.record.model_copy(update={"faults": (*self.record.faults, said)})

    def __enter__(self) -> RunBook:
        self._open()
        self._keep("Running")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if problem is None:
            self._update("Completed", None)
            retried(lambda: save_record(self._store, self.record), logger.warning)
        else:
            # What is no Exception (KeyboardInterrupt, an orchestrator's signal) was somebody's wish.
            self._keep("Failed" if isinstance(problem, Exception) else "Cancelled", first_line(problem))

    def _open(self) -> None:
        """Tell the earlier attempts at the same run; one that still says Running was killed."""
        try:
            before = earlier_attempts(self._store, self.record)
            for record in before:
                if record.state == "Running":
                    save_record(self._store, record.model_copy(update={"state": "Crashed"}))
        except ArtifactError as error:
            logger.warning("the earlier attempts at this run are not told: %s", error)
            return
        self.record = self.record.model_copy(update={"attempts": tuple(Attempt.of(record) for record in before)})

    def _note(self, line: StageLine) -> None:
        """One line a stage: where the road was walked again, what was done last; work that was done counts."""
        before = self._lines.get(line.name)
        if before is None:
            self._lines[line.name] = line
        elif not (line.cached and before.state == "Completed" and line.digest == before.digest):
            seconds = round(before.seconds + line.seconds, 3)
            self._lines[line.name] = line.model_copy(update={"seconds": seconds})

    def _keep(self, state: RunState, error: str | None = None) -> None:
        """Write the record as far as it goes; a store that does not answer is what the stages will say better."""
        self._update(state, error)
        try:
            save_record(self._store, self.record)
        except ArtifactError as error:
            logger.warning("the record of this run could not be written: %s", error)

    def _update(self, state: RunState, error: str | None) -> None:
        self.record = self.record.model_copy(
            update={
                "state": state,
                "error": error,
                "wall_seconds": round(time.monotonic() - self._started, 3),
                "stages": tuple(self._lines.values()),
                "scores": scores_of(self._artifacts.values()),
            }
        )


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
