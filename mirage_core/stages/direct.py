"""Run the whole road in this process, without an orchestrator, and keep its record in the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mirage_core.config import Settings
from mirage_core.stages.book import RunBook
from mirage_core.stages.record import RunRecord
from mirage_core.stages.registry import STAGES
from mirage_core.stages.road import road
from mirage_core.stages.stage import label, run_stage
from mirage_core.store import Store
from mirage_core.types import Artifact, Progress


def run_road(settings: Settings, store: Store, progress: Progress) -> RunRecord:
    """Walk the road stage after stage; the record is written whatever happens, errors are raised on.

    Returns the completed record (``runs/<id>.json`` in the store).
    """
    with RunBook(settings, store) as book:

        def step(name: str, params: Mapping[str, Any], /, **inputs: Artifact) -> Artifact:
            def work() -> tuple[Artifact, bool]:
                result = run_stage(STAGES[name], settings, inputs, store, progress, params)
                return result.artifact, result.cached

            return book.stage(label(name, params), work)

        road(settings, step)
    return book.record
