"""What Prefect costs: wall time of the flow ``mirage`` over the sum of its stages' seconds, cold and cached.

``mirage bench orchestration`` runs it, on a Prefect server of its own that is real and temporary. In every round the
same road is walked three times in this process, in a store of its own: without Prefect (``mirage run --direct``: its
stages' seconds are the yardstick), as the flow with nothing cached, and as the flow again with everything cached.
Medians over the rounds are compared; a round before the first, which does not count, warms up the server.

Stages are of a known length: the real road, store, tasks and progress, with stages that wait instead of working,
reporting steps and losses as training does. Or they are those of a recipe.
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
from mirage_core.pipeline.runner import run_road
from mirage_core.pipeline.stage import Stage, StageContext
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.types import ProgressEvent

RECIPE = "micro"
STEPS = 20
SERVER_PATIENCE_S = 180
Walk = Callable[[str, list[str], str], object]
"""Walks the road of a recipe as a flow: (recipe, overrides, the store's root)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table, of medians: the flow's wall time, the sum of its stages' seconds (cold, without Prefect)
    and the first over the second (less is better). ``overhead_ms`` is what a stage pays: of the cold flow what is
    above the stages' seconds, of the cached one all of it, over the number of stages."""

    case: str
    stages: int
    ratio: float
    wall_ms: float
    stages_ms: float
    overhead_ms: float


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds of one round, and how many stages there were."""

    stages: int
    direct: float
    cold: float
    cached: float


def measure(walk: Walk, rounds: int, seconds: float | None, told: Callable[[Round], None]) -> list[Row]:
    """The rows ``cold`` and ``cached``; each round is ``told`` as it ends.

    ``seconds`` is how long a stage waits, None for the recipe micro as it is. InputError for wrong numbers.
    """
    if rounds < 1 or (seconds is not None and seconds <= 0):
        raise InputError(f"--rounds is {rounds} and --seconds {seconds}; expected 1 or more, and more than 0.")
    measured: list[Round] = []
    with _server(), _waiting_stages(seconds):
        for number in range(rounds + 1):
            done = one_round(walk, number)
            if number:
                told(done)
                measured.append(done)
    return rows(measured)


def one_round(walk: Walk, number: int) -> Round:
    """The road without Prefect, as a flow, and as a flow with everything cached; ``number`` is its seed."""
    chosen = [f"seed={number}"]
    with tempfile.TemporaryDirectory(prefix="mirage-bench-") as folder:
        own = Store.open(str(Path(folder) / "direct"), cache=Path(folder) / "cache")
        record = run_road(load(RECIPE, chosen), own, _silent)
        cold, cached = (_timed(lambda: walk(RECIPE, chosen, str(Path(folder) / "flow"))) for _ in range(2))
    return Round(len(record.stages), sum(stage.seconds for stage in record.stages), cold, cached)


def rows(rounds: list[Round]) -> list[Row]:
    """The table of these rounds."""
    stages, direct = rounds[0].stages, statistics.median(done.direct for done in rounds)
    cold = statistics.median(done.cold for done in rounds)
    cached = statistics.median(done.cached for done in rounds)
    return [
        _row("cold", stages, cold, direct, (cold - direct) / stages),
        _row("cached", stages, cached, direct, cached / stages),
    ]


def _row(case: str, stages: int, wall: float, direct: float, overhead: float) -> Row:
    wall_ms, stages_ms, overhead_ms = (round(1e3 * spent, 1) for spent in (wall, direct, overhead))
    return Row(case, stages, round(wall / direct, 3), wall_ms, stages_ms, overhead_ms)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def waiting(stage: Stage, seconds: float) -> Stage:
    """The stage, waiting ``seconds`` instead of working: the same name, inputs, parameters and checkpoints flag."""

    def run(context: StageContext) -> dict[str, Any]:
        for step in range(1, STEPS + 1):
            time.sleep(seconds / STEPS)
            context.progress(ProgressEvent(stage=stage.name, step=step, total=STEPS, metrics={"loss": 1 / step}))
        (context.output / "made.txt").write_text(f"{stage.name} {sorted(context.inputs)}\n", encoding="utf-8")
        return {"method": context.params["method"], "scores": []} if stage.kind == "evaluation" else {}

    return replace(stage, run=run)


@contextmanager
def _waiting_stages(seconds: float | None) -> Iterator[None]:
    """Waiting stages in the place of all real ones; nothing where ``seconds`` is None."""
    real = dict(STAGES)
    try:
        if seconds is not None:
            STAGES.update({name: waiting(stage, seconds) for name, stage in real.items()})
        yield
    finally:
        STAGES.update(real)


@contextmanager
def _server() -> Iterator[None]:
    """A temporary Prefect server with a data base and a result storage of its own."""
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with (
        tempfile.TemporaryDirectory(prefix="mirage-bench-results-") as results,
        prefect_test_harness(server_startup_timeout=SERVER_PATIENCE_S),
        temporary_settings({PREFECT_LOCAL_STORAGE_PATH: Path(results)}),
    ):
        yield


def _silent(event: ProgressEvent) -> None:
    """Progress nobody looks at."""
