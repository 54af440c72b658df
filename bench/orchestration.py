"""The overhead of Prefect: wall time of the flow ``mirage`` over the sum of its stages' seconds, cold and cached.

``mirage bench orchestration`` starts a temporary Prefect server. Every round runs the same pipeline three times in this
process, in its own store: without Prefect (``mirage run --direct``: the baseline), as the flow with nothing cached, and
as the flow with everything cached. Medians over the rounds are compared; one warm-up round does not count.

Stages have a known length: pipeline, store, tasks and progress are real, but each stage waits instead of working and
reports steps and losses as training does. Or they are the stages of a recipe.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mirage_core.errors import InputError
from mirage_core.pipeline.registry import STAGES
from mirage_core.pipeline.runner import run_in_process
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.types import ProgressEvent

RECIPE = "micro"
STEPS = 20
SERVER_STARTUP_S = 180
RunFlow = Callable[[str, list[str], str], object]
"""Runs the pipeline of a recipe as a flow: (recipe, overrides, the store's root)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table, of medians: the flow's wall time, the sum of its stages' seconds (cold, without Prefect)
    and their ratio (less is better). ``overhead_ms``, for each stage: of the cold flow the time beyond the stages'
    seconds, of the cached flow all of it."""

    case: str
    stages: int
    ratio: float
    wall_ms: float
    stages_ms: float
    overhead_ms: float


@dataclass(frozen=True, slots=True)
class Round:
    """The seconds of one round, and its number of stages."""

    stages: int
    direct: float
    cold: float
    cached: float


def measure(run_flow: RunFlow, rounds: int, seconds: float | None, on_round: Callable[[Round], None]) -> list[Row]:
    """Return the rows ``cold`` and ``cached``; ``on_round`` gets each round as it ends.

    ``seconds`` is how long a stage waits, None for the recipe micro as it is. InputError for wrong numbers.
    """
    if rounds < 1 or (seconds is not None and seconds <= 0):
        raise InputError(f"--rounds is {rounds} and --seconds {seconds}; expected 1 or more, and more than 0.")
    measured: list[Round] = []
    with _server(), _waiting_stages(seconds):
        for number in range(rounds + 1):
            result = one_round(run_flow, number)
            if number:
                on_round(result)
                measured.append(result)
    return rows(measured)


def one_round(run_flow: RunFlow, number: int) -> Round:
    """Run the pipeline without Prefect, as a flow, and as a cached flow; ``number`` is its seed."""
    overrides = [f"seed={number}"]
    with tempfile.TemporaryDirectory(prefix="mirage-bench-") as folder:
        direct_store = Store.open(str(Path(folder) / "direct"), cache=Path(folder) / "cache")
        record = run_in_process(load(RECIPE, overrides), direct_store, _ignore)
        cold, cached = (_timed(lambda: run_flow(RECIPE, overrides, str(Path(folder) / "flow"))) for _ in range(2))
    return Round(len(record.stages), sum(stage.seconds for stage in record.stages), cold, cached)


def rows(rounds: list[Round]) -> list[Row]:
    """Return the table of these rounds."""
    stages, direct = rounds[0].stages, statistics.median(each.direct for each in rounds)
    cold = statistics.median(each.cold for each in rounds)
    cached = statistics.median(each.cached for each in rounds)
    return [
        _row("cold", stages, cold, direct, (cold - direct) / stages),
        _row("cached", stages, cached, direct, cached / stages),
    ]


def _row(case: str, stages: int, wall: float, direct: float, overhead: float) -> Row:
    wall_ms, stages_ms, overhead_ms = (round(1e3 * spent, 1) for spent in (wall, direct, overhead))
    return Row(case, stages, round(wall / direct, 3), wall_ms, stages_ms, overhead_ms)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def waiting(stage: Stage, seconds: float) -> Stage:
    """Return a stage that waits ``seconds`` instead of working, with the same name, inputs and parameters."""

    def run(context: StageContext) -> dict[str, Any]:
        for step in range(1, STEPS + 1):
            time.sleep(seconds / STEPS)
            context.progress(ProgressEvent(stage=stage.name, step=step, total=STEPS, metrics={"loss": 1 / step}))
        (context.output / "made.txt").write_text(f"{stage.name} {sorted(context.inputs)}\n", encoding="utf-8")
        return {"method": context.params["method"], "scores": []} if stage.kind == "evaluation" else {}

    return replace(stage, run=run)


@contextmanager
def _waiting_stages(seconds: float | None) -> Iterator[None]:
    """Replace all stages by waiting ones; do nothing if ``seconds`` is None."""
    real = dict(STAGES)
    try:
        if seconds is not None:
            STAGES.update({name: waiting(stage, seconds) for name, stage in real.items()})
        yield
    finally:
        STAGES.update(real)


@contextmanager
def _server() -> Iterator[None]:
    """Start a temporary Prefect server with its own database and local storage."""
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with (
        tempfile.TemporaryDirectory(prefix="mirage-bench-results-") as results,
        prefect_test_harness(server_startup_timeout=SERVER_STARTUP_S),
        temporary_settings({PREFECT_LOCAL_STORAGE_PATH: Path(results)}),
    ):
        yield


def _ignore(event: ProgressEvent) -> None:
    """Ignore progress."""
