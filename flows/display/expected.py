"""How long the stages of a run will take: from earlier runs in the store, else from `mirage plan`'s figures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence

from mirage_core.config import RuntimeSettings, Settings
from mirage_core.errors import ArtifactError
from mirage_core.pipeline.pipeline import plan
from mirage_core.pipeline.run_record import load_record
from mirage_core.store import Store

RECORDS = 5
"""The newest records of runs that are read."""
PLANNED_SHARE = 0.4
"""Of the float32 rate of the processes' cores, assumed for training until an earlier run says better."""

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


def planned_seconds(recipe: str, sets: Sequence[str], rate: float) -> dict[str, float]:
    """Return the seconds of the stages that run a model, as ``mirage plan`` counts them; none where it cannot.

    A process of its own: planning imports what models need.
    """
    overrides = [part for text in sets for part in ("--set", text)]
    command = [sys.executable, "-m", "flows.cli", "plan", "--recipe", recipe, *overrides, "--rate", str(rate), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {}
    return {stage["name"]: 3600 * stage["hours"] for stage in json.loads(done.stdout)["stages"]}


def of_rows(planned: Mapping[str, float], rows: Sequence[str]) -> dict[str, float]:
    """Return the seconds of rows by name: a plan has one stage for all evaluations, which they share."""
    evaluations = [name for name in rows if name.startswith(("evaluation/", "blind-evaluation/"))]
    shared = {name: planned["evaluation"] / len(evaluations) for name in evaluations if "evaluation" in planned}
    return {**{name: planned[name] for name in rows if name in planned}, **shared}
