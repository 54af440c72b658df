"""Run the whole road in this process, without an orchestrator, and keep its record in the store."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from mirage_core.config import Settings
from mirage_core.pipeline.pipeline import road
from mirage_core.pipeline.recovery import healed, retried
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.run_record import RunRecord
from mirage_core.pipeline.run_tracker import RunBook
from mirage_core.pipeline.shards import FanOut, in_processes, run_stage_in_shards
from mirage_core.pipeline.stage import StageResult, label
from mirage_core.store import Store
from mirage_core.types import Artifact, Progress, ProgressEvent


def run_road(settings: Settings, store: Store, progress: Progress, fan_out: FanOut | None = None) -> RunRecord:
    """Walk the road stage after stage; the record is written whatever happens, errors are raised on.

    ``fan_out`` makes the shards of stages that ``runtime.shards`` cuts: processes of this machine by default.
    Returns the completed record (``runs/<id>.json`` in the store).
    """
    made_by = fan_out or in_processes(partial(Store.open, store.url, store.cache))
    with RunBook(settings, store) as book:

        def step(name: str, params: Mapping[str, Any], /, **inputs: Artifact) -> Artifact:
            named = label(name, params)

            def run() -> StageResult:
                stage = get_stage(name)
                return run_stage_in_shards(stage, settings, inputs, store, progress, params, fan_out=made_by)

            def work() -> tuple[Artifact, bool]:
                result = retried(run, lambda said: progress(ProgressEvent(stage=named, message=said)))
                return result.artifact, result.cached

            return book.stage(named, work)

        def say(said: str) -> None:
            book.lost(said)
            progress(ProgressEvent(stage="road", message=said))

        healed(lambda: road(settings, step), say)
    return book.record
