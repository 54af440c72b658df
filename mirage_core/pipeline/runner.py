"""Run the whole pipeline in this process, without an orchestrator; its record is written to the store."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from mirage_core.config import Settings
from mirage_core.pipeline.pipeline import run_pipeline
from mirage_core.pipeline.recovery import rerun_on_lost_artifact, retry_transient
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.run_record import RunRecord
from mirage_core.pipeline.run_tracker import RunTracker
from mirage_core.pipeline.shards import FanOut, in_processes, run_stage_in_shards
from mirage_core.pipeline.stage import StageResult, label
from mirage_core.store import Store
from mirage_core.types import Artifact, Progress, ProgressEvent


def run_in_process(settings: Settings, store: Store, progress: Progress, fan_out: FanOut | None = None) -> RunRecord:
    """Run stage after stage; the record is written whatever happens, errors are raised.

    ``fan_out`` runs the shards of stages that ``runtime.shards`` splits: in processes of this machine by default.
    Returns the completed record (``runs/<id>.json`` in the store).
    """
    run_shards = fan_out or in_processes(partial(Store.open, store.url, store.cache))
    with RunTracker(settings, store) as tracker:

        def step(name: str, params: Mapping[str, Any], /, **inputs: Artifact) -> Artifact:
            stage_label = label(name, params)

            def run() -> StageResult:
                stage = get_stage(name)
                return run_stage_in_shards(stage, settings, inputs, store, progress, params, fan_out=run_shards)

            def work() -> tuple[Artifact, bool]:
                result = retry_transient(run, lambda text: progress(ProgressEvent(stage=stage_label, message=text)))
                return result.artifact, result.cached

            return tracker.track(stage_label, work)

        def log_fault(message: str) -> None:
            tracker.add_fault(message)
            progress(ProgressEvent(stage="pipeline", message=message))

        rerun_on_lost_artifact(lambda: run_pipeline(settings, step), log_fault)
    return tracker.record
