"""Stages of a run side by side: order, results, failures, and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mirage_core.config import Settings
from mirage_core.errors import JobCancelled, TrainingError
from mirage_core.pipeline.run_record import newest_record
from mirage_core.pipeline.runner import run_in_process
from mirage_core.pipeline.side_by_side import run_stages
from mirage_core.pipeline.stage import StageContext, end_work, run_stage
from mirage_core.store import Store
from mirage_core.types import ProgressEvent
from tests.pipeline.fakes import Events, fake_stages, settings, stage, write_one

PATIENCE_S = 60


def side_by_side(at_once: int = 2, **changes: Any) -> Settings:
    return settings(runtime={"stages_at_once": at_once}, **changes)


class Meeting:
    """Stages that only go on when the others of theirs run, too."""

    def __init__(self, *names: str) -> None:
        self.names, self.barrier = names, threading.Barrier(len(names), timeout=PATIENCE_S)

    def __call__(self, name: str, context: StageContext) -> dict[str, Any]:
        if name in self.names:
            self.barrier.wait()
        return write_one(context)


def test_stages_that_need_nothing_of_each_other_run_at_the_same_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_stages(monkeypatch, Meeting("direct-sft", "grounding"))
    record = run_in_process(side_by_side(), store, Events())
    assert record.state == "Completed" and {line.state for line in record.stages} == {"Completed"}


def test_the_artifacts_are_those_of_one_stage_after_the_other(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_stages(monkeypatch)
    alone = run_in_process(settings(), store, Events())
    ran = fake_stages(monkeypatch)
    beside = run_in_process(side_by_side(3), Store.open(f"file://{tmp_path / 'other'}"), Events())

    assert {line.name: line.digest for line in beside.stages} == {line.name: line.digest for line in alone.stages}
    assert beside.scores == alone.scores
    assert ran[-1] == "report" and len(ran) == len(beside.stages)


def test_no_more_stages_run_at_once_than_the_setting_says(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def count(name: str, context: StageContext) -> dict[str, Any]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return write_one(context)

    fake_stages(monkeypatch, count)
    run_in_process(side_by_side(3), store, Events())
    assert most == 3


def test_after_a_failure_nothing_begins_what_runs_ends_and_the_error_is_raised(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, failed = threading.Barrier(2, timeout=PATIENCE_S), threading.Event()

    def run(name: str, context: StageContext) -> dict[str, Any]:
        if name in ("direct-sft", "grounding"):
            both.wait()
        if name == "direct-sft":
            failed.set()
            raise TrainingError("the loss is not finite")
        if name == "grounding":
            assert failed.wait(PATIENCE_S)
            time.sleep(0.2)  # longer than the other thread needs to look for another stage
        return write_one(context)

    fake_stages(monkeypatch, run)
    # The evaluation of zero-shot waits for neither of the two.
    with pytest.raises(TrainingError, match="not finite"):
        run_in_process(side_by_side(), store, Events())
    record = newest_record(store)
    assert record is not None
    states = {line.name: line.state for line in record.stages}
    assert record.state == "Failed" and record.error is not None and "not finite" in record.error
    assert states["direct-sft"] == "Failed" and states["grounding"] == "Completed"
    assert "relaxation" not in states and "report" not in states

    ran = fake_stages(monkeypatch)
    assert run_in_process(side_by_side(), store, Events()).state == "Completed"
    assert "grounding" not in ran and "direct-sft" in ran


def test_a_stage_of_a_run_that_has_ended_ends_at_its_next_progress(store: Store) -> None:
    def work(context: StageContext) -> dict[str, Any]:
        end.set()
        context.progress(ProgressEvent(stage="fake", step=1, total=2))
        raise AssertionError("it went on")

    with end_work() as end, pytest.raises(JobCancelled, match="fake"):
        run_stage(stage(work), settings(), {}, store, Events())


def test_an_interrupt_ends_what_runs_and_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def step(name: str, params: Any, /, **inputs: Any) -> Any:
        begun.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stages(side_by_side(), step)
    assert begun.is_set()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + 15)])
def test_a_signal_ends_the_process_while_a_stage_works_in_a_thread(number: int, status: int, tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import dataclasses, signal, sys, time
        from mirage_core.pipeline import registry
        from mirage_core.pipeline.runner import run_in_process
        from mirage_core.store import Store
        from mirage_core.types import ProgressEvent
        from tests.pipeline.fakes import settings

        signal.signal(signal.SIGINT, signal.default_int_handler)

        def draw(context):
            for _ in range(60000):
                time.sleep(0.01)
                context.progress(ProgressEvent(stage="problems", message="draws"))

        real = registry.STAGES["problems"]
        registry.STAGES["problems"] = dataclasses.replace(real, run=draw)
        store = Store.open(sys.argv[1])
        run_in_process(settings(runtime={"stages_at_once": 2}), store, lambda event: print(event.message, flush=True))
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", program, f"file://{tmp_path}"], stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert process.stdout is not None
    while "draws" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status
    assert "done" not in said
