"""Walking a study: each cell's part of the road, some at a time; a cell that fails does not stop the others."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mirage_core.config import Settings
from mirage_core.distributed.launch import ending_jobs
from mirage_core.errors import ArtifactDamaged, ArtifactMissing, InputError
from mirage_core.pipeline.recovery import healed
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.run_record import StageLine, first_line
from mirage_core.pipeline.run_tracker import failed_line, stage_line
from mirage_core.pipeline.stage import StageResult, label, stage_fingerprint
from mirage_core.studies.grid import CellRun
from mirage_core.studies.plan import INTERVENTIONS, cell_road
from mirage_core.types import Artifact, Progress, ProgressEvent

Do = Callable[[str, Mapping[str, Any], Settings, Mapping[str, Artifact]], tuple[Artifact, bool]]
"""Runs one stage: its name, parameters, settings and inputs; gives its artifact, and whether it was there already."""


class SharedStages:
    """What the walks of this process have made, by fingerprint; safe in threads."""

    def __init__(self, do: Do) -> None:
        self._do = do
        self._made: dict[str, Future[tuple[Artifact, bool]]] = {}
        self._lock = threading.Lock()

    def run(
        self, name: str, params: Mapping[str, Any], settings: Settings, inputs: Mapping[str, Artifact]
    ) -> tuple[Artifact, bool]:
        """A stage's artifact, and whether it was there already: in the store, or because another walk made it.

        A stage that failed fails alike for every walk that needs it, without being tried again; what was found
        damaged or missing is made again by the walk that comes next.
        """
        key = stage_fingerprint(get_stage(name), settings, inputs, params)
        with self._lock:
            own = key not in self._made
            future = self._made.setdefault(key, Future())
        if not own:
            artifact, _ = future.result()
            return artifact, True
        try:
            future.set_result(self._do(name, params, settings, inputs))
        except BaseException as error:
            if isinstance(error, ArtifactDamaged | ArtifactMissing) or not isinstance(error, Exception):
                self._forget_key(key)
            future.set_exception(error)
            raise
        return future.result()

    def forget(self, lost: Sequence[str]) -> None:
        """Make these artifacts (by path) again when somebody needs them next."""
        with self._lock:
            for key, future in list(self._made.items()):
                done = future.done() and future.exception() is None
                if done and future.result()[0].path in lost:
                    del self._made[key]

    def _forget_key(self, key: str) -> None:
        with self._lock:
            del self._made[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a cell's run went: its artifacts by label where it was completed, its error where not."""

    run: CellRun
    lines: tuple[StageLine, ...]
    artifacts: Mapping[str, Artifact]
    error: str | None = None

    @property
    def evaluation(self) -> Artifact | None:
        """The answers of the cell's method, judged."""
        return self.artifacts.get(label("evaluation", {"method": self.run.cell.method}))

    @property
    def interventions(self) -> Artifact | None:
        """What was measured when its latents were exchanged; None where they were not."""
        return self.artifacts.get(INTERVENTIONS)

    @property
    def seconds(self) -> float:
        """What it took now."""
        return sum(line.seconds for line in self.lines)


def walk_study(
    runs: Sequence[CellRun],
    shared: SharedStages,
    progress: Progress,
    done: Callable[[Outcome], None],
    *,
    parallel: int = 1,
) -> list[Outcome]:
    """The outcome of every run, in their order; ``parallel`` cells at a time, told to ``done`` as they end.

    What is no Exception (a cancelled run) ends the jobs of all cells and is raised on.
    """
    if parallel < 1:
        raise InputError(f"got parallel = {parallel}, expected the number of cells at a time, 1 or more")

    def walk(number: int) -> Outcome:
        outcome = _walked(runs[number], shared, progress, f"cell {number + 1} of {len(runs)}, {runs[number].name}")
        done(outcome)
        return outcome

    if parallel == 1:
        return [walk(number) for number in range(len(runs))]
    with ThreadPoolExecutor(parallel, thread_name_prefix="cell") as pool:
        # A flow's run, and where a teacher's key is found, live in context variables.
        waiting = [pool.submit(contextvars.copy_context().run, walk, number) for number in range(len(runs))]
        return _results(pool, waiting)


def _results(pool: ThreadPoolExecutor, waiting: Sequence[Future[Outcome]]) -> list[Outcome]:
    try:
        with ending_jobs():
            return [future.result() for future in waiting]
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _walked(run: CellRun, shared: SharedStages, progress: Progress, named: str) -> Outcome:
    """One cell's part of the road, taken again where an artifact was found damaged."""
    lines: dict[str, StageLine] = {}

    def say(said: str) -> None:
        progress(ProgressEvent(stage="study", message=f"{named}: {said}"))

    def step(name: str, params: Mapping[str, Any], /, **inputs: Artifact) -> Artifact:
        stage, begun = label(name, params), time.monotonic()
        try:
            artifact, cached = shared.run(name, params, run.settings, inputs)
        except Exception as error:
            lines[stage] = failed_line(stage, time.monotonic() - begun, error)
            raise
        result = StageResult(artifact=artifact, cached=cached, seconds=time.monotonic() - begun)
        lines[stage] = stage_line(stage, result)
        return artifact

    def walk() -> dict[str, Artifact]:
        try:
            return cell_road(run, step)
        except (ArtifactDamaged, ArtifactMissing) as error:
            shared.forget(error.lost)
            raise

    say("begins")
    try:
        made = healed(walk, say)
    except Exception as error:
        say(f"failed: {first_line(error)}")
        return Outcome(run=run, lines=tuple(lines.values()), artifacts={}, error=first_line(error))
    cached = sum(line.cached for line in lines.values())
    say(f"done: {len(lines) - cached} stages run, {cached} cached or shared")
    return Outcome(run=run, lines=tuple(lines.values()), artifacts=made)
