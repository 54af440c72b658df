"""Run the whole pipeline, or one stage, in this process, without an orchestrator; a run's record is in the store."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from mirage_core.config import Settings
from mirage_core.pipeline.recovery import reruns_on_lost_artifact, transient_retries
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.run_record import RunRecord
from mirage_core.pipeline.run_tracker import RunTracker
from mirage_core.pipeline.shards import FanOut, in_processes, in_shards
from mirage_core.pipeline.side_by_side import run_stages
from mirage_core.pipeline.stage import StageResult, label, run_stage
from mirage_core.store import Store
from mirage_core.types import Artifact, Progress, ProgressEvent


def run_in_process(settings: Settings, store: Store, progress: Progress, fan_out: FanOut | None = None) -> RunRecord:
    """Run the stages, ``runtime.stages_at_once`` at a time; the record is written whatever happens, errors are raised.

    ``fan_out`` runs the shards of stages that ``runtime.shards`` splits: in processes of this machine by default.
    Returns the completed record (``runs/<id>.json`` in the store).
    """
    stages = StageRunner(store, progress, fan_out)
    with RunTracker(settings, store) as tracker:

        def step(name: str, params: Mapping[str, Any], /, **inputs: Artifact) -> Artifact:
            with tracker.stage(label(name, params)) as finish:
                result = stages.run(name, params, settings, inputs)
                finish(result.artifact, result.cached)
            return result.artifact

        def log_fault(message: str) -> None:
            tracker.add_fault(message)
            progress(ProgressEvent(stage="pipeline", message=message))

        for attempt in reruns_on_lost_artifact(log_fault):
            with attempt:
                run_stages(settings, step)
    return tracker.record


class StageRunner:
    """Runs stages in this process, each again after a transient error; ``fan_out`` as for ``run_in_process``."""

    def __init__(self, store: Store, progress: Progress, fan_out: FanOut | None = None) -> None:
        self._store, self._progress = store, progress
        self._fan_out = fan_out or in_processes(partial(Store.open, store.url, store.cache))

    def run(
        self, name: str, params: Mapping[str, Any], settings: Settings, inputs: Mapping[str, Artifact]
    ) -> StageResult:
        """Return a stage's artifact: from the store where it is there, else run the stage."""
        stage = in_shards(get_stage(name), settings, self._fan_out)
        for attempt in transient_retries(lambda text: self.log(label(name, params), text)):
            with attempt:
                result = run_stage(stage, settings, inputs, self._store, self._progress, params)
        return result

    def log(self, stage: str, message: str) -> None:
        """Report a message of a stage."""
        self._progress(ProgressEvent(stage=stage, message=message))
