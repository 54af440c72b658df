"""Run a job in processes of its own: start them, follow them, and leave none behind.

The ranks are started directly, not through torchrun: one process less to import torch (seconds in a
tiny stage), exit statuses by rank, and a rendezvous through a file, so that no port can be taken. Several
machines will need torchrun or DeepSpeed's launcher in front of the same worker.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mirage_core.errors import JobCancelled, StageTimeout, TrainingProcessDied
from mirage_core.training.events import CHECKPOINT, PROGRESS, EventReader, progress_event
from mirage_core.training.failure import failure
from mirage_core.training.job import Job, write_job
from mirage_core.types import Progress

LOOK_EVERY_S = 0.1
GRACE_S = 5.0
LOG_TAIL_BYTES = 4000
WORKER = "mirage_core.training.worker"

OnCheckpoint = Callable[[int, Path], None]

_RUNNING: set[threading.Event] = set()
"""One for every job of this process; set, it ends the job."""


@dataclass(frozen=True)
class Group:
    """The processes of one job, by rank, and the folder of their files."""

    folder: Path
    processes: tuple[subprocess.Popen[bytes], ...]

    def exits(self) -> list[int | None]:
        """Exit statuses by rank; None for a process still running."""
        return [process.poll() for process in self.processes]


def run_job(job: Job, *, progress: Progress, on_checkpoint: OnCheckpoint, worker: str = WORKER) -> None:
    """Run a job to its end in ``settings.runtime.processes`` processes.

    ``on_checkpoint(step, folder)`` is called, in this process, for the newest checkpoint there is; the one before
    is then deleted. Raises the error of a process as its own kind where it is a MirageError, TrainingError for any
    other exception, OutOfMemory, StageTimeout, TrainingProcessDied (transient) for a killed or silent process,
    JobCancelled after ``cancel_jobs``. An exception from a callback, or KeyboardInterrupt, ends the processes too;
    they also end when this process dies. ``worker`` is the module they run.
    """
    job.output.mkdir(parents=True, exist_ok=True)
    job.scratch.mkdir(parents=True, exist_ok=True)
    cancelled = threading.Event()
    _RUNNING.add(cancelled)
    try:
        group = _start(job, Path(tempfile.mkdtemp(prefix="launch-", dir=job.scratch)), worker)
        try:
            _follow(group, job, progress, on_checkpoint, cancelled)
        finally:
            _stop(group)
    finally:
        _RUNNING.discard(cancelled)


def cancel_jobs() -> int:
    """End every job of this process, whichever thread runs it; returns how many there were.

    Each ends within a second with JobCancelled in its own thread; its last checkpoint stays.
    """
    running = list(_RUNNING)
    for cancelled in running:
        cancelled.set()
    return len(running)


@contextlib.contextmanager
def ending_jobs() -> Iterator[None]:
    """When the block ends by what is no Exception (a cancelled run), end the jobs of this process's other threads."""
    try:
        yield
    except Exception:
        raise
    except BaseException:
        cancel_jobs()
        raise


def _start(job: Job, folder: Path, worker: str) -> Group:
    job_file = folder / "job.json"
    write_job(job, job_file)
    world_size = job.settings.runtime.processes
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(world_size):
            processes.append(_start_rank(worker, job_file, rank, world_size))
    except BaseException:
        _stop(Group(folder, tuple(processes)))
        raise
    return Group(folder, tuple(processes))


def _start_rank(worker: str, job_file: Path, rank: int, world_size: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", worker, str(job_file)]
    command += ["--rank", str(rank), "--world-size", str(world_size), "--parent", str(os.getpid())]
    with log_file(job_file.parent, rank).open("wb") as log:
        # A session of its own: a signal to the group ends whatever the process has started, and nothing else.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def _follow(
    group: Group, job: Job, progress: Progress, on_checkpoint: OnCheckpoint, cancelled: threading.Event
) -> None:
    runtime = job.settings.runtime
    ranks = range(len(group.processes))
    reader = EventReader([events_file(group.folder, rank) for rank in ranks])
    started = heard = time.monotonic()
    kept: list[Path] = []
    while True:
        exits = group.exits()  # before the events: what a process wrote last is then read below
        announced: list[tuple[int, Path]] = []
        for event in reader.poll():
            heard = time.monotonic()
            if event["kind"] == PROGRESS:
                progress(progress_event(event))
            elif event["kind"] == CHECKPOINT:
                announced.append((event["step"], Path(event["folder"])))
        if announced:
            on_checkpoint(*announced[-1])
            kept = _only_newest([*kept, *(folder for _, folder in announced)])
            heard = time.monotonic()
        if all(status == 0 for status in exits):
            return
        if any(exits):
            raise _failure(group)
        _check_time(runtime.timeout_s, runtime.stall_timeout_s, started, heard, group)
        if cancelled.wait(LOOK_EVERY_S):
            raise JobCancelled(f"the {job.program} job was cancelled; run again: it goes on from its last checkpoint")


def _only_newest(folders: list[Path]) -> list[Path]:
    """Delete the checkpoints that a newer one has replaced; returns what is left."""
    for folder in folders[:-1]:
        shutil.rmtree(folder, ignore_errors=True)
    return folders[-1:]


def _failure(group: Group) -> Exception:
    """The cause of a failure; the other processes get a moment to say what they know."""
    deadline = time.monotonic() + 1.0
    while None in group.exits() and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
    exits = group.exits()
    loudest = next((rank for rank, status in enumerate(exits) if status), 0)
    ranks = range(len(group.processes))
    return failure([failure_file(group.folder, rank) for rank in ranks], exits, log_tail(group.folder, loudest))


def _check_time(timeout_s: float, stall_timeout_s: float, started: float, heard: float, group: Group) -> None:
    now = time.monotonic()
    if now - started > timeout_s:
        raise StageTimeout(
            f"the processes did not finish within {timeout_s} s and were stopped. Raise runtime.timeout_s, or the "
            "stage's own in runtime.timeouts, or run again: training goes on from its last checkpoint. End of the "
            f"log:\n{log_tail(group.folder, 0)}"
        )
    if now - heard > stall_timeout_s:
        raise TrainingProcessDied(
            f"the processes said nothing for runtime.stall_timeout_s = {stall_timeout_s} s and were stopped. "
            f"End of the log:\n{log_tail(group.folder, 0)}"
        )


def _stop(group: Group) -> None:
    """End every process of the group: asked first, killed after a grace time; returns when all are gone."""
    for process in group.processes:
        if process.poll() is None:
            _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    for process in group.processes:
        try:
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone already (macOS says it the second way)
        os.killpg(process.pid, number)


def log_file(folder: Path, rank: int) -> Path:
    """What a process printed."""
    return folder / f"rank-{rank}.log"


def events_file(folder: Path, rank: int) -> Path:
    """What a process reported."""
    return folder / f"rank-{rank}.events.jsonl"


def failure_file(folder: Path, rank: int) -> Path:
    """Why a process failed."""
    return folder / f"rank-{rank}.failure.json"


def log_tail(folder: Path, rank: int) -> str:
    """The end of a process's log; empty when it printed nothing."""
    path = log_file(folder, rank)
    if not path.exists():
        return ""
    return path.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", errors="replace")
