"""The launcher: what its processes tell, how they fail, and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mirage_core.config import Settings
from mirage_core.distributed.job import Job
from mirage_core.distributed.launch import cancel_jobs, cancel_jobs_on_interrupt, run_job
from mirage_core.errors import (
    DataError,
    JobCancelled,
    OutOfMemory,
    StageTimeout,
    TrainingError,
    TrainingInterrupted,
    TrainingProcessDied,
)
from mirage_core.types import ProgressEvent

ROOT = Path(__file__).parents[2]
FAKE = "tests.distributed.fake_worker"


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def job(folder: Path, act: str, **runtime: Any) -> Job:
    settings = Settings.model_validate({"recipe": "fake", "runtime": {"processes": 2, **runtime}})
    return Job(
        program="evaluate",
        settings=settings,
        seed=1,
        output=folder / "output",
        scratch=folder / "scratch",
        options={"act": act},
    )


class JobRecorder:
    """What the parent received."""

    def __init__(self) -> None:
        self.events: list[ProgressEvent] = []
        self.checkpoints: list[tuple[int, str]] = []

    def progress(self, event: ProgressEvent) -> None:
        self.events.append(event)

    def checkpoint(self, step: int, folder: Path) -> None:
        self.checkpoints.append((step, (folder / "weights").read_text()))

    def pids(self) -> list[int]:
        return [int(event.metrics["pid"]) for event in self.events]


def run(made: Job) -> JobRecorder:
    recorder = JobRecorder()
    run_job(made, progress=recorder.progress, on_checkpoint=recorder.checkpoint, worker=FAKE)
    return recorder


def failed(made: Job, kind: type[Exception]) -> tuple[JobRecorder, Exception]:
    recorder = JobRecorder()
    with pytest.raises(kind) as caught:
        run_job(made, progress=recorder.progress, on_checkpoint=recorder.checkpoint, worker=FAKE)
    assert type(caught.value) is kind
    assert_gone(recorder.pids())
    return recorder, caught.value


def assert_gone(pids: list[int], within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_every_process_runs_and_is_heard(tmp_path: Path) -> None:
    recorder = run(job(tmp_path, "fine"))
    assert sorted((event.step, event.total) for event in recorder.events) == [(0, 2), (1, 2)]
    assert_gone(recorder.pids())


def test_checkpoints_reach_the_parent_and_replaced_ones_go(tmp_path: Path) -> None:
    recorder = run(job(tmp_path, "checkpoints"))
    assert recorder.checkpoints == [(1, "1"), (2, "2")]
    assert sorted(path.name for path in (tmp_path / "scratch").glob("checkpoint-*")) == ["checkpoint-2"]


def test_an_expected_error_comes_back_as_its_own_kind(tmp_path: Path) -> None:
    _, error = failed(job(tmp_path, "data-error"), DataError)
    assert str(error) == "row 3 has no image"


def test_a_bug_comes_back_as_a_training_error_with_its_traceback(tmp_path: Path) -> None:
    _, error = failed(job(tmp_path, "bug"), TrainingError)
    assert "process 1 failed: ZeroDivisionError: a bug" in str(error)
    assert "fake_worker.py" in str(error) and "rank 1 acts" in str(error)


@pytest.mark.parametrize("act", ("killed", "lost-peer"))
def test_a_killed_process_is_transient_whatever_the_others_say(tmp_path: Path, act: str) -> None:
    _, error = failed(job(tmp_path, act), TrainingProcessDied)
    assert "process 1 was killed by signal 9" in str(error)
    assert isinstance(error, TrainingProcessDied) and error.transient


def test_a_lack_of_memory_has_its_own_kind(tmp_path: Path) -> None:
    _, error = failed(job(tmp_path, "out-of-memory"), OutOfMemory)
    assert "process 1: OutOfMemoryError: CUDA out of memory" in str(error)


def test_a_time_out_ends_the_processes(tmp_path: Path) -> None:
    _, error = failed(job(tmp_path, "hang", timeout_s=2), StageTimeout)
    assert "within 2 s" in str(error) and "runtime.timeouts" in str(error)


def test_silence_ends_the_processes(tmp_path: Path) -> None:
    _, error = failed(job(tmp_path, "hang", stall_timeout_s=2), TrainingProcessDied)
    assert "runtime.stall_timeout_s = 2" in str(error)


def test_an_exception_in_the_parent_ends_the_processes(tmp_path: Path) -> None:
    pids: list[int] = []

    def cancel(event: ProgressEvent) -> None:
        pids.append(int(event.metrics["pid"]))
        if len(pids) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(job(tmp_path, "hang"), progress=cancel, on_checkpoint=lambda step, folder: None, worker=FAKE)
    assert_gone(pids)


def run_in_a_thread(made: Job, recorder: JobRecorder) -> tuple[threading.Thread, list[BaseException]]:
    """Start a job in a thread and wait until both its processes were heard."""
    ended: list[BaseException] = []

    def work() -> None:
        try:
            run_job(made, progress=recorder.progress, on_checkpoint=recorder.checkpoint, worker=FAKE)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 120
    while len(recorder.events) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return thread, ended


def test_a_job_in_another_thread_is_cancelled_with_its_processes(tmp_path: Path) -> None:
    recorder = JobRecorder()
    thread, ended = run_in_a_thread(job(tmp_path, "hang"), recorder)
    assert cancel_jobs() == 1
    thread.join(timeout=60)
    assert [type(problem) for problem in ended] == [JobCancelled]
    assert not ended[0].transient  # type: ignore[attr-defined]
    assert_gone(recorder.pids())
    assert cancel_jobs() == 0


def test_a_signal_in_the_main_thread_ends_jobs_of_other_threads_and_an_error_does_not(tmp_path: Path) -> None:
    recorder = JobRecorder()
    thread, ended = run_in_a_thread(job(tmp_path, "hang"), recorder)
    with pytest.raises(DataError), cancel_jobs_on_interrupt():
        raise DataError("another stage's")
    assert thread.is_alive() and not ended
    with pytest.raises(KeyboardInterrupt), cancel_jobs_on_interrupt():
        raise KeyboardInterrupt
    thread.join(timeout=60)
    assert [type(problem) for problem in ended] == [JobCancelled]


def test_sigterm_to_one_process_saves_and_is_transient(tmp_path: Path) -> None:
    recorder = JobRecorder()
    thread, ended = run_in_a_thread(job(tmp_path, "save-when-asked"), recorder)
    for pid in recorder.pids():  # the real ones agree among themselves; these know only their own signal
        os.kill(pid, signal.SIGTERM)
    thread.join(timeout=60)
    assert [type(problem) for problem in ended] == [TrainingInterrupted]
    assert str(ended[0]) == "fake was interrupted at step 7 of 9, and saved there: run again"
    assert ended[0].transient  # type: ignore[attr-defined]
    assert recorder.checkpoints == [(7, "saved")]
    assert_gone(recorder.pids())


@pytest.mark.parametrize("act", ("save-when-asked", "hang"))
def test_a_job_cancelled_to_save_keeps_its_checkpoint_and_wants_no_other_attempt(tmp_path: Path, act: str) -> None:
    recorder = JobRecorder()
    thread, ended = run_in_a_thread(job(tmp_path, act), recorder)
    assert cancel_jobs(saving=True) == 1
    thread.join(timeout=60)
    assert [type(problem) for problem in ended] == [JobCancelled]
    assert ("where it was" in str(ended[0])) == (act == "save-when-asked")
    assert recorder.checkpoints == ([(7, "saved")] if act == "save-when-asked" else [])
    assert_gone(recorder.pids())


def test_what_does_not_save_within_the_grace_time_is_ended(tmp_path: Path) -> None:
    recorder = JobRecorder()
    thread, ended = run_in_a_thread(job(tmp_path, "deaf", shutdown_grace_s=1), recorder)
    cancel_jobs(saving=True)
    thread.join(timeout=60)
    assert [type(problem) for problem in ended] == [JobCancelled]
    assert "its last checkpoint" in str(ended[0])
    assert_gone(recorder.pids())


ASKED_PARENT = """
import signal, sys
from pathlib import Path
from mirage_core.distributed.job import read_job
from mirage_core.distributed.launch import run_job
if sys.argv[2] == "handler":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
try:
    run_job(read_job(Path(sys.argv[1])), progress=lambda event: print(int(event.metrics["pid"]), flush=True),
            on_checkpoint=lambda step, folder: print("kept", step, (folder / "weights").read_text(), flush=True),
            worker="tests.distributed.fake_worker")
except Exception as problem:
    print(type(problem).__name__, problem.transient, flush=True)
"""


@pytest.mark.parametrize(("whose", "status", "last"), [("handler", 143, []), ("none", 0, ["TrainingInterrupted True"])])
def test_a_parent_asked_to_end_lets_its_processes_save_and_keeps_that(
    tmp_path: Path, whose: str, status: int, last: list[str]
) -> None:
    (tmp_path / "job.json").write_text(job(tmp_path, "save-when-asked").model_dump_json())
    command = [sys.executable, "-c", ASKED_PARENT, str(tmp_path / "job.json"), whose]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    os.kill(parent.pid, signal.SIGTERM)
    said, _ = parent.communicate(timeout=60)
    assert parent.returncode == status
    assert said.splitlines() == ["kept 7 saved", *last]
    assert_gone(pids)


PARENT = """
import sys
from pathlib import Path
from mirage_core.distributed.job import read_job
from mirage_core.distributed.launch import run_job
run_job(read_job(Path(sys.argv[1])), progress=lambda event: print(int(event.metrics["pid"]), flush=True),
        on_checkpoint=lambda step, folder: None, worker="tests.distributed.fake_worker")
"""


@pytest.mark.parametrize("act", ("hang", "hang-with-children"))
def test_processes_and_what_they_started_end_when_their_parent_is_killed(tmp_path: Path, act: str) -> None:
    (tmp_path / "job.json").write_text(job(tmp_path, act).model_dump_json())
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "job.json")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(parent.stdout.readline()) for _ in range(2)]
    assert len(pids) == 2 and all(alive(pid) for pid in pids)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert_gone(pids)
