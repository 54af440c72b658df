"""How long the stages of a run will take: from earlier runs in the store, else from `mirage plan`'s figures."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

from mirage_core.config import RuntimeSettings, Settings
from mirage_core.errors import ArtifactError
from mirage_core.pipeline.pipeline import plan
from mirage_core.pipeline.run_record import load_record
from mirage_core.store import Store

RECORDS = 5
"""The newest records of runs that are read."""
PLANNED_SHARE = 0.4
"""Of the float32 rate of the processes' cores, assumed for training until an earlier run says better."""
PLAN_AFTER_S = 15.0
"""A run that has ended by then, such as one of cached stages, needs no plan."""

Expected = dict[str, float | None]


def expected_seconds(settings: Settings, store: Store) -> Expected:
    """Return the seconds of every stage in its order: 0 where it is cached, None where no earlier run says.

    Where the store cannot be read here nothing is expected: the run itself says what is wrong with it.
    """
    try:
        stages, known = plan(settings, store), earlier_seconds(settings.recipe, store)
    except ArtifactError:
        return {}
    return {stage.name: 0.0 if stage.cached else known.get(stage.name) for stage in stages}


def earlier_seconds(recipe: str, store: Store) -> dict[str, float]:
    """Return the seconds of the stages that the newest runs of this recipe have run, the newest counting."""
    seconds: dict[str, float] = {}
    for name in sorted(store.names("runs/"))[-RECORDS:]:
        record = load_record(store, name)
        if record.recipe == recipe:
            seconds.update({stage.name: stage.seconds for stage in record.stages if stage.state == "Completed"})
    return seconds


def planned_rate(gflops: float, cores: int, runtime: RuntimeSettings) -> float:
    """Return the TFLOP/s of a process for ``mirage plan --rate``: its share of the cores at PLANNED_SHARE of theirs."""
    return gflops * PLANNED_SHARE * min(runtime.processes * runtime.threads, cores) / runtime.processes / 1e3


def plan_command(recipe: str, sets: Sequence[str], rate: float) -> list[str]:
    """Return the words of the process that plans: planning imports what models need."""
    overrides = [part for text in sets for part in ("--set", text)]
    return [sys.executable, "-m", "mirage_app", "plan", "--recipe", recipe, *overrides, "--rate", str(rate), "--json"]


class Planning:
    """The seconds of the stages that run a model, as ``mirage plan`` counts them, found beside a run and ended with it.

    ``then`` takes them by the stage's name; it is not called where the plan fails, or the run ends before.
    """

    def __init__(
        self, command: Sequence[str], then: Callable[[dict[str, float]], None], after_s: float = PLAN_AFTER_S
    ) -> None:
        self._command, self._then = command, then
        self._lock, self._stopped = threading.Lock(), False
        self._process: subprocess.Popen[str] | None = None
        self._timer = threading.Timer(after_s, self._plan)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """End the planning where it is."""
        self._timer.cancel()
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def _plan(self) -> None:
        with self._lock:
            if self._stopped:
                return
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        printed, _ = self._process.communicate()
        if self._process.returncode == 0:
            self._then({stage["name"]: 3600 * stage["hours"] for stage in json.loads(printed)["stages"]})


def of_rows(planned: Mapping[str, float], rows: Sequence[str]) -> dict[str, float]:
    """Return the seconds of rows by name: a plan has one stage for all evaluations, which they share."""
    evaluations = [name for name in rows if name.startswith(("evaluation/", "blind-evaluation/"))]
    shared = {name: planned["evaluation"] / len(evaluations) for name in evaluations if "evaluation" in planned}
    return {**{name: planned[name] for name in rows if name in planned}, **shared}
