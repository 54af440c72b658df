"""Walking a study: each cell's part of the road, some at a time; a cell that fails does not stop the others."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mirage_core.errors import ArtifactDamaged, ArtifactMissing, InputError
from mirage_core.stages.book import failed_line, stage_line
from mirage_core.stages.heal import healed
from mirage_core.stages.record import StageLine, first_line
from mirage_core.stages.shared import SharedStages
from mirage_core.stages.stage import StageResult, label
from mirage_core.stages.study_cell import INTERVENTIONS, cell_road
from mirage_core.studies.grid import CellRun
from mirage_core.training.launch import ending_jobs
from mirage_core.types import Artifact, Progress, ProgressEvent


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
        except Exception as problem:
            lines[stage] = failed_line(stage, time.monotonic() - begun, problem)
            raise
        result = StageResult(artifact=artifact, cached=cached, seconds=time.monotonic() - begun)
        lines[stage] = stage_line(stage, result)
        return artifact

    def walk() -> dict[str, Artifact]:
        try:
            return cell_road(run, step)
        except (ArtifactDamaged, ArtifactMissing) as problem:
            shared.forget(problem.lost)
            raise

    say("begins")
    try:
        made = healed(walk, say)
    except Exception as problem:
        say(f"failed: {first_line(problem)}")
        return Outcome(run=run, lines=tuple(lines.values()), artifacts={}, error=first_line(problem))
    cached = sum(line.cached for line in lines.values())
    say(f"done: {len(lines) - cached} stages run, {cached} cached or shared")
    return Outcome(run=run, lines=tuple(lines.values()), artifacts=made)
