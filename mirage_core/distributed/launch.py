"""Run a job in processes of its own: start them, follow them, and leave none behind.

The ranks are started directly where that does (runtime.launcher): one process less to import torch (seconds in a
tiny stage), exit statuses by rank, and a rendezvous through a file, so that no port can be taken. torchrun and
DeepSpeed's launcher stand in front of the same worker, on this machine and on others (training/hosts.py).
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from mirage_core.distributed.checkpoint_uploads import OnCheckpoint, Uploads
from mirage_core.distributed.events import CHECKPOINT, PROGRESS, EventReader, progress_event
from mirage_core.distributed.failure import failure
from mirage_core.distributed.hosts import start_agents, trouble
from mirage_core.distributed.interruption import interrupt_file
from mirage_core.distributed.job import Job, write_job
from mirage_core.distributed.process_group import Group, events_file, failure_file, log_tail, start_ranks, stop
from mirage_core.errors import (
    JobCancelled,
    MirageError,
    StageTimeout,
    TrainingInterrupted,
    TrainingProcessDied,
)
from mirage_core.types import Progress

LOOK_EVERY_S = 0.1
WORKER = "mirage_core.distributed.worker"


class Wish:
    """How others want a job to end: at once, or when it has saved."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.asked = threading.Event()
        self.by_caller = False

    def cancel(self, *, saving: bool) -> None:
        """Wish it; the caller wants no other attempt."""
        self.by_caller = True
        (self.asked if saving else self.cancelled).set()


_RUNNING: set[Wish] = set()
"""One for every job of this process."""


def run_job(job: Job, *, progress: Progress, on_checkpoint: OnCheckpoint, worker: str = WORKER) -> None:
    """Run a job to its end in ``settings.runtime.processes`` processes on each of ``settings.runtime.hosts``.

    ``on_checkpoint(step, folder)`` is called for the newest checkpoint there is, by a thread of its own where
    ``runtime.async_checkpoints``; the ones before are then deleted. Raises the error of a process as its own kind where
    it is a MirageError, TrainingError for any other exception, OutOfMemory, StageTimeout, TrainingProcessDied
    (transient) for a killed or silent process, JobCancelled after ``cancel_jobs``, TrainingInterrupted (transient)
    after SIGTERM to a process, or to this one where it has no handler of its own: then they have saved. An exception
    from a callback, or KeyboardInterrupt, ends the processes at once, what else is no Exception (a handler of SIGTERM
    raises such) when they have saved; they also end when this process dies. ``worker`` is the module they run.
    """
    job.output.mkdir(parents=True, exist_ok=True)
    job.scratch.mkdir(parents=True, exist_ok=True)
    wish = Wish()
    _RUNNING.add(wish)
    try:
        with _asked_by_sigterm(wish):
            _run(job, progress, on_checkpoint, worker, wish)
    finally:
        _RUNNING.discard(wish)


def _run(job: Job, progress: Progress, on_checkpoint: OnCheckpoint, worker: str, wish: Wish) -> None:
    group = _start(job, Path(tempfile.mkdtemp(prefix="launch-", dir=job.scratch)), worker)
    try:
        uploads = Uploads(on_checkpoint, background=job.settings.runtime.async_checkpoints)
        _Following(group, job, progress, uploads, wish).to_the_end()
    finally:
        stop(group)


def _start(job: Job, folder: Path, worker: str) -> Group:
    runtime = job.settings.runtime
    write_job(job, folder / "job.json")
    if runtime.launcher == "direct" and len(runtime.hosts) < 2:
        return start_ranks(worker, folder / "job.json", runtime.world_size)
    return start_agents(runtime, worker, folder / "job.json")


def cancel_jobs(*, saving: bool = False) -> int:
    """End every job of this process, whichever thread runs it; returns how many there were.

    Each ends with JobCancelled in its own thread: within a second, its last checkpoint stays; or, ``saving``, when
    the step is done and saved (``runtime.grace_s`` at most).
    """
    running = list(_RUNNING)
    for wish in running:
        wish.cancel(saving=saving)
    return len(running)


@contextlib.contextmanager
def ending_jobs() -> Iterator[None]:
    """When the block ends by what is no Exception (a cancelled run), end the jobs of this process's other threads.

    At once after Ctrl-C; otherwise it was SIGTERM, and they save first.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        cancel_jobs(saving=not isinstance(error, KeyboardInterrupt))
        raise


@contextlib.contextmanager
def _asked_by_sigterm(wish: Wish) -> Iterator[None]:
    """Where nobody else handles SIGTERM in this process, it asks the job to save and end."""
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if mine:
        signal.signal(signal.SIGTERM, lambda number, frame: wish.asked.set())  # noqa: ARG005
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Following:
    """A group on its way to the end of its job."""

    def __init__(self, group: Group, job: Job, progress: Progress, uploads: Uploads, wish: Wish) -> None:
        self._group, self._job, self._progress, self._uploads, self._wish = group, job, progress, uploads, wish
        self._reader = EventReader([events_file(group.folder, rank) for rank in range(group.world_size)])
        self._parts: dict[Path, set[int]] = {}
        self._started = self._heard = time.monotonic()
        self._ends_by: float | None = None

    def to_the_end(self) -> None:
        """Return when all processes have done their work; the error of the job otherwise."""
        try:
            while not self._look():
                self._wish.cancelled.wait(LOOK_EVERY_S)
        except KeyboardInterrupt:
            raise
        except Exception:
            if not self._wish.cancelled.is_set():
                self._uploads.settle(newest=True)  # the next attempt goes on from there
            raise
        except BaseException:
            self._save_and_end()
            raise
        self._uploads.settle(newest=False)

    def _look(self) -> bool:
        """One look at everything; whether all is done."""
        exits = self._group.exits()  # before the events: what a process wrote last is then read below
        self._hear()
        if all(status == 0 for status in exits):
            return True
        if any(exits):
            raise self._judged(_failure(self._group, self._job))
        if self._wish.cancelled.is_set():
            raise self._cancelled("its last checkpoint")
        self._check_time()
        return False

    def _hear(self) -> None:
        """Pass on what the processes have reported."""
        for event in self._reader.poll():
            self._heard = time.monotonic()
            if event["kind"] == PROGRESS:
                self._progress(progress_event(event))
            elif event["kind"] == CHECKPOINT and self._complete(event["folder"], event["part"], event["parts"]):
                self._uploads.offer(event["step"], Path(event["folder"]))
                self._heard = time.monotonic()
        self._uploads.look()

    def _complete(self, folder: str, part: int, parts: int) -> bool:
        arrived = self._parts.setdefault(Path(folder), set())
        arrived.add(part)
        return len(arrived) == parts

    def _check_time(self) -> None:
        if self._wish.asked.is_set() and self._ends_by is None:
            self._ask()
        if self._ends_by is not None and time.monotonic() > self._ends_by:
            raise self._judged(
                TrainingProcessDied(
                    f"{self._job.program} did not end within runtime.grace_s = {self._job.settings.runtime.grace_s} s"
                )
            )
        _check_time(self._job, self._started, self._heard, self._group)

    def _ask(self) -> None:
        """Ask the processes to finish their step, save and end."""
        self._ends_by = time.monotonic() + self._job.settings.runtime.grace_s
        interrupt_file(self._group.folder).touch()

    def _judged(self, problem: MirageError) -> MirageError:
        """The error to raise once the processes were asked to end: that they did is none of its own."""
        if self._ends_by is None or not isinstance(problem, TrainingInterrupted | TrainingProcessDied):
            return problem
        if self._wish.by_caller:
            return self._cancelled(
                "where it was" if isinstance(problem, TrainingInterrupted) else "its last checkpoint"
            )
        if isinstance(problem, TrainingInterrupted):
            return problem
        return TrainingInterrupted(
            f"the {self._job.program} job was asked to end and could not save; run again: it goes on from its last "
            f"checkpoint ({problem})"
        )

    def _cancelled(self, place: str) -> JobCancelled:
        return JobCancelled(f"the {self._job.program} job was cancelled; run again: it goes on from {place}")

    def _save_and_end(self) -> None:
        """This process was told to end: let the processes save, and keep that, before it does."""
        self._wish.asked.set()
        with contextlib.suppress(MirageError):
            self._ask()
            while not self._look():
                time.sleep(LOOK_EVERY_S)
        self._uploads.settle(newest=True)


def _failure(group: Group, job: Job) -> MirageError:
    """The cause of a failure; the other processes get a moment to say what they know."""
    deadline = time.monotonic() + 1.0
    while None in group.exits() and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
    exits = group.exits()
    if group.listens:
        told = trouble(group, job.settings.runtime)
        if told is not None:
            return told
    loudest = next((number for number, status in enumerate(exits) if status), 0)
    records = [failure_file(group.folder, rank) for rank in range(group.world_size)]
    return failure(records, exits, log_tail(group.logs[loudest]), group.names)


def _check_time(job: Job, started: float, heard: float, group: Group) -> None:
    now, runtime = time.monotonic(), job.settings.runtime
    if now - started > runtime.timeout_s:
        raise StageTimeout(
            f"the processes did not finish within {runtime.timeout_s} s and were stopped. Raise runtime.timeout_s, or "
            "the stage's own in runtime.timeouts, or run again: training goes on from its last checkpoint. End of the "
            f"log:\n{log_tail(group.logs[0])}"
        )
    if now - heard > runtime.stall_timeout_s:
        raise TrainingProcessDied(
            f"the processes said nothing for runtime.stall_timeout_s = {runtime.stall_timeout_s} s and were stopped. "
            f"End of the log:\n{log_tail(group.logs[0])}"
        )
