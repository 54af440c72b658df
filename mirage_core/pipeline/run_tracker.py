"""Tracking of a run: every stage with its state and seconds, written to the store as the run's record."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType

from mirage_core.config import Settings, identity
from mirage_core.errors import ArtifactError
from mirage_core.pipeline.pipeline import methods_of
from mirage_core.pipeline.recovery import transient_retries
from mirage_core.pipeline.run_record import (
    Attempt,
    RunRecord,
    RunState,
    ScoreLine,
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

FinishStage = Callable[[Artifact, bool], None]
"""Takes a stage's artifact, and whether it was cached."""


class RunTracker:
    """Writes ``runs/<id>.json`` when the run starts, after each stage, and when it ends, however it ends.

    Use it as a context manager; several threads may record their stages. ``flow_run`` is the orchestrator's id of the
    run, the same in every attempt: the record lists the attempts before this one, and one that was killed is marked
    Crashed.
    """

    def __init__(self, settings: Settings, store: Store, flow_run: str | None = None) -> None:
        self.record: RunRecord = new_record(settings.recipe, identity(settings), flow_run)
        self._store = store
        self._started = time.monotonic()
        self._lock = threading.RLock()
        self._methods = methods_of(settings)
        self._lines: dict[str, StageLine] = {}
        self._artifacts: dict[str, Artifact] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[FinishStage]:
        """Record the stage that the block runs: the block passes the result to what is yielded, or raises."""
        started = time.monotonic()
        try:
            yield partial(self._finish, name, started)
        except BaseException as error:
            with self._lock:
                self._add(failed_line(name, time.monotonic() - started, error))
            raise

    def _finish(self, name: str, started: float, artifact: Artifact, cached: bool) -> None:
        result = StageResult(artifact=artifact, cached=cached, seconds=time.monotonic() - started)
        with self._lock:
            self._add(stage_line(name, result))
            self._artifacts[name] = artifact
            self._save("Running")

    def add_fault(self, message: str) -> None:
        """Record an artifact that was found damaged or missing, and whose stage runs again."""
        with self._lock:
            self.record = self.record.model_copy(update={"faults": (*self.record.faults, message)})

    def __enter__(self) -> RunTracker:
        self._link_earlier_attempts()
        self._save("Running")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._update("Completed", None)
            for attempt in transient_retries(logger.warning):
                with attempt:
                    save_record(self._store, self.record)
        else:
            # What is no Exception (KeyboardInterrupt, an orchestrator's signal) was asked for.
            self._save("Failed" if isinstance(error, Exception) else "Cancelled", first_line(error))

    def _link_earlier_attempts(self) -> None:
        """List the earlier attempts at the same run; one that is still Running was killed."""
        try:
            before = earlier_attempts(self._store, self.record)
            for record in before:
                if record.state == "Running":
                    save_record(self._store, record.model_copy(update={"state": "Crashed"}))
        except ArtifactError as error:
            logger.warning("the earlier attempts at this run are not listed: %s", error)
            return
        self.record = self.record.model_copy(update={"attempts": tuple(Attempt.of(record) for record in before)})

    def _add(self, line: StageLine) -> None:
        """Keep one line a stage: after a rerun the last one, with the seconds of all of its work."""
        before = self._lines.get(line.name)
        if before is None:
            self._lines[line.name] = line
        elif not (line.cached and before.state == "Completed" and line.digest == before.digest):
            seconds = round(before.seconds + line.seconds, 3)
            self._lines[line.name] = line.model_copy(update={"seconds": seconds})

    def _save(self, state: RunState, error: str | None = None) -> None:
        """Write the record so far; a store that does not answer is only logged, the stages raise better errors."""
        self._update(state, error)
        try:
            save_record(self._store, self.record)
        except ArtifactError as failure:
            logger.warning("the record of this run could not be written: %s", failure)

    def _scores(self) -> tuple[ScoreLine, ...]:
        """Return the scores in the recipe's order of methods: stages side by side end in any order."""
        place = {name: index for index, name in enumerate(self._methods)}
        scores = scores_of(self._artifacts.values())
        return tuple(sorted(scores, key=lambda score: place.get(score.method, len(place))))

    def _update(self, state: RunState, error: str | None) -> None:
        self.record = self.record.model_copy(
            update={
                "state": state,
                "error": error,
                "wall_seconds": round(time.monotonic() - self._started, 3),
                "stages": tuple(self._lines.values()),
                "scores": self._scores(),
            }
        )


def stage_line(name: str, result: StageResult) -> StageLine:
    """Return the record's line of a stage that finished."""
    return StageLine(
        name=name,
        state="Cached" if result.cached else "Completed",
        cached=result.cached,
        seconds=round(result.seconds, 3),
        digest=result.artifact.digest,
        path=result.artifact.path,
    )


def failed_line(name: str, seconds: float, error: BaseException) -> StageLine:
    """Return the record's line of a stage that failed."""
    return StageLine(name=name, state="Failed", seconds=round(seconds, 3), error=first_line(error))
