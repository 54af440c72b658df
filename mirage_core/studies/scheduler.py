"""The scheduler of a study: each cell's part of the pipeline, some at a time; a failed cell does not stop others."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mirage_core.config import Settings
from mirage_core.distributed.launch import cancel_jobs_on_interrupt
from mirage_core.errors import ArtifactDamaged, ArtifactMissing, InputError
from mirage_core.pipeline.recovery import reruns_on_lost_artifact
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.run_record import StageLine, first_line
from mirage_core.pipeline.run_tracker import failed_line, stage_line
from mirage_core.pipeline.stage import StageResult, label, stage_fingerprint
from mirage_core.studies.grid import CellRun
from mirage_core.studies.plan import INTERVENTIONS, run_cell_pipeline
from mirage_core.types import Artifact, Progress, ProgressEvent

RunStage = Callable[[str, Mapping[str, Any], Settings, Mapping[str, Artifact]], tuple[Artifact, bool]]
"""Runs one stage: its name, parameters, settings and inputs; returns its artifact, and whether it was cached."""


class StageDeduplicator:
    """Runs each stage once for all cells of this process, by fingerprint; thread-safe."""

    def __init__(self, run_stage: RunStage) -> None:
        self._run_stage = run_stage
        self._futures: dict[str, Future[tuple[Artifact, bool]]] = {}
        self._lock = threading.Lock()

    def run(
        self, name: str, params: Mapping[str, Any], settings: Settings, inputs: Mapping[str, Artifact]
    ) -> tuple[Artifact, bool]:
        """Return a stage's artifact, and whether it was there already: in the store, or from another cell.

        A failed stage fails alike for every cell that needs it, without a second attempt; what was damaged or missing
        runs again in the next cell.
        """
        key = stage_fingerprint(get_stage(name), settings, inputs, params)
        with self._lock:
            is_first = key not in self._futures
            future = self._futures.setdefault(key, Future())
        if not is_first:
            artifact, _ = future.result()
            return artifact, True
        try:
            future.set_result(self._run_stage(name, params, settings, inputs))
        except BaseException as error:
            if isinstance(error, ArtifactDamaged | ArtifactMissing) or not isinstance(error, Exception):
                with self._lock:
                    del self._futures[key]
            future.set_exception(error)
            raise
        return future.result()

    @contextmanager
    def forgetting_lost(self) -> Iterator[None]:
        """Forget the stages of the artifacts that the block finds damaged or missing."""
        try:
            yield
        except (ArtifactDamaged, ArtifactMissing) as error:
            self.forget(error.lost)
            raise

    def forget(self, lost: Sequence[str]) -> None:
        """Run the stages of these artifacts (by path) again when a cell needs them next."""
        with self._lock:
            for key, future in list(self._futures.items()):
                succeeded = future.done() and future.exception() is None
                if succeeded and future.result()[0].path in lost:
                    del self._futures[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """The result of a cell's run: its artifacts by label where it completed, else its error."""

    run: CellRun
    lines: tuple[StageLine, ...]
    artifacts: Mapping[str, Artifact]
    error: str | None = None

    @property
    def evaluation(self) -> Artifact | None:
        """The judged answers of the cell's method."""
        return self.artifacts.get(label("evaluation", {"method": self.run.cell.method}))

    @property
    def blind_evaluation(self) -> Artifact | None:
        """The judged answers of the cell's method without the picture; None unless ``evaluation.blind``."""
        return self.artifacts.get(label("blind-evaluation", {"method": self.run.cell.method}))

    @property
    def interventions(self) -> Artifact | None:
        """The interventions on its latents; None where they were not measured."""
        return self.artifacts.get(INTERVENTIONS)

    @property
    def seconds(self) -> float:
        """Seconds of its stages in this attempt."""
        return sum(line.seconds for line in self.lines)


def run_cells(
    runs: Sequence[CellRun],
    stages: StageDeduplicator,
    progress: Progress,
    on_done: Callable[[CellResult], None],
    *,
    parallel: int = 1,
) -> list[CellResult]:
    """Return the result of every run, in their order; ``parallel`` cells at a time, each passed to ``on_done``.

    What is no Exception (a cancelled run) ends the jobs of all cells and is raised.
    """
    if parallel < 1:
        raise InputError(f"got parallel = {parallel}, expected the number of cells at a time, 1 or more")

    def run(number: int) -> CellResult:
        title = f"cell {number + 1} of {len(runs)}, {runs[number].name}"
        result = _run_cell(
            runs[number], stages, lambda text: progress(ProgressEvent(stage="study", message=f"{title}: {text}"))
        )
        on_done(result)
        return result

    if parallel == 1:
        return [run(number) for number in range(len(runs))]
    with ThreadPoolExecutor(parallel, thread_name_prefix="cell") as pool:
        # A flow's run, and where a teacher's key is found, are context variables.
        futures = [pool.submit(contextvars.copy_context().run, run, number) for number in range(len(runs))]
        try:
            with cancel_jobs_on_interrupt():
                return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_cell(run: CellRun, stages: StageDeduplicator, log: Callable[[str], None]) -> CellResult:
    """Run one cell's part of the pipeline, again where an artifact was damaged."""
    lines: dict[str, StageLine] = {}

    def step(name: str, params: Mapping[str, Any], /, **inputs: Artifact) -> Artifact:
        stage, started = label(name, params), time.monotonic()
        try:
            artifact, cached = stages.run(name, params, run.settings, inputs)
        except Exception as error:
            lines[stage] = failed_line(stage, time.monotonic() - started, error)
            raise
        result = StageResult(artifact=artifact, cached=cached, seconds=time.monotonic() - started)
        lines[stage] = stage_line(stage, result)
        return artifact

    log("begins")
    try:
        for attempt in reruns_on_lost_artifact(log):
            with attempt, stages.forgetting_lost():
                artifacts = run_cell_pipeline(run, step)
    except Exception as error:
        log(f"failed: {first_line(error)}")
        return CellResult(run=run, lines=tuple(lines.values()), artifacts={}, error=first_line(error))
    cached = sum(line.cached for line in lines.values())
    log(f"done: {len(lines) - cached} stages run, {cached} cached or shared")
    return CellResult(run=run, lines=tuple(lines.values()), artifacts=artifacts)
