"""The flow ``mirage`` with nothing faked: a real Prefect server, training in processes, and a real SIGKILL.

The processes are forked from one that has imported torch; tests/crash and test_real_pipeline_on_s3.py start each anew.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mirage_core.pipeline.run_record import RunRecord, newest_record
from mirage_core.pipeline.runner import run_in_process
from tasks.paths import open_store
from tests.forked import Forked, forked_jobs, with_deepspeed

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.xdist_group("prefect"), pytest.mark.slow]

# Long enough in stage 2 to be killed in its middle, between two checkpoints; everything else as short as can be.
OVERRIDES = [
    "model.warmup.steps=4",
    "grounding.steps=2",
    "relaxation.steps=60",
    "runtime.checkpoint_every=15",
    "evaluation={methods: [stage-2], max_new_tokens: 32}",
    "problems.vsp_reasoning.test_per_level=2",
    "problems.vsp_planning.test_per_level=2",
]
PATIENCE_S = 240


class Killer(threading.Thread):
    """Waits for stage 2's first checkpoint in the store, then kills one of its training processes."""

    def __init__(self, store: Path, processes: Sequence[Forked]) -> None:
        super().__init__(daemon=True)
        self._store, self._processes = store, processes
        self.killed: int | None = None

    def run(self) -> None:
        patience = time.monotonic() + PATIENCE_S
        while time.monotonic() < patience and self.killed is None:
            workers = [one for one in tuple(self._processes) if "mirage-relaxation" in " ".join(one.command)]
            if workers and any(self._store.glob("checkpoints/*/*/manifest.json")):
                self.killed = workers[-1].pid
                os.kill(self.killed, signal.SIGKILL)
            time.sleep(0.02)


def test_a_killed_stage_2_resumes_from_its_checkpoint_and_nothing_before_it_runs_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from flows.full_pipeline import mirage

    store = tmp_path / "store"
    monkeypatch.setenv("MIRAGE_STORE", str(store))
    monkeypatch.setattr("tasks.stages.BACKOFF", [0, 0, 0])
    launched = noted_launches(monkeypatch)
    with_deepspeed()
    with forked_jobs() as processes:
        killer = Killer(store, processes)
        killer.start()
        mirage(recipe="micro", overrides=OVERRIDES)

    assert killer.killed is not None, "stage 2 ended before it could be killed"
    assert [program for program, _ in launched] == ["warmup", "grounding", "relaxation", "relaxation", "evaluate"]
    resumed_from = [folder for program, folder in launched if program == "relaxation"]
    assert resumed_from[0] is None
    assert resumed_from[1] is not None, "the retry began from the start instead of the checkpoint"
    record = newest_record(open_store())
    assert {stage.state for stage in record.stages} == {"Completed"}
    assert not list(store.glob("checkpoints/*/*/manifest.json")), "a finished training leaves no checkpoint behind"
    with forked_jobs():
        assert_as_if_undisturbed(record, store, tmp_path / "second")


def noted_launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path | None]]:
    """Every job that is launched from now on: its program and what it resumes from."""
    from mirage_core.distributed import launch

    launched: list[tuple[str, Path | None]] = []
    real = launch.run_job

    def run_job(job: Any, **rest: Any) -> None:
        launched.append((job.program, job.resume_from))
        real(job, **rest)

    monkeypatch.setattr(launch, "run_job", run_job)
    monkeypatch.setattr("mirage_core.evaluation.evaluate.run_job", run_job)
    return launched


def assert_as_if_undisturbed(record: RunRecord, store: Path, root: Path) -> None:
    """The same digests and scores from a stage 2 without a fault, in a copy of the store, without Prefect."""
    from mirage_core.recipes import load
    from mirage_core.store import Store

    shutil.copytree(store, root)
    copy = Store.open(str(root))
    (model,) = (stage for stage in record.stages if stage.name == "relaxation")
    copy.remove(copy.get(model.path))
    for artifact in (*copy.list("evaluation"), *copy.list("report")):
        copy.remove(artifact)
    undisturbed = run_in_process(load("micro", OVERRIDES), copy, lambda event: None)
    ran = {stage.name for stage in undisturbed.stages if not stage.cached}
    assert ran == {"relaxation", "evaluation/stage-2", "report"}
    assert {stage.name: stage.digest for stage in record.stages} == {s.name: s.digest for s in undisturbed.stages}
    assert record.scores == undisturbed.scores
