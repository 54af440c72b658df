"""Run a job in processes of its own: start them, supervise them, and leave none behind.

By default the ranks are started directly (``runtime.launcher``): one process less that imports torch, exit statuses by
rank, and a rendezvous through a file, so that no port can be taken. torchrun and DeepSpeed's launcher start the same
worker, on this machine and on others (process_group.py).
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from mirage_core.distributed.checkpoint_uploads import CheckpointUploads, OnCheckpoint
from mirage_core.distributed.events import CHECKPOINT, PROGRESS, EventReader, group_error, progress_event
from mirage_core.distributed.job import Job, write_job
from mirage_core.distributed.process_group import (
    ProcessGroup,
    events_file,
    failure_file,
    host_error,
    log_tail,
    start_group,
    stop_file,
)
from mirage_core.errors import (
    JobCancelled,
    MirageError,
    StageTimeout,
    TrainingInterrupted,
    TrainingProcessDied,
)
from mirage_core.types import Progress

POLL_EVERY_S = 0.1
WORKER = "mirage_core.pipeline.worker"
"""The module that every process of a job runs: it stands above this package, since it imports the programs."""
IMPORTS = ("mirage_core.pipeline.programs",)
"""What forked processes that run it find imported."""
DEEPSPEED = ("deepspeed", "deepspeed.runtime.zero.muon.original_muon")
"""And with runtime.engine=deepspeed; the second is torch's compiler, which DeepSpeed's optimizers import."""


class StopSignal:
    """How a job is asked to end from outside: at once, or after it has saved."""

    def __init__(self) -> None:
        self.now = threading.Event()
        self.after_save = threading.Event()
        self.by_caller = False

    def cancel(self, *, saving: bool) -> None:
        """Ask on behalf of the caller, who wants no other attempt."""
        self.by_caller = True
        (self.after_save if saving else self.now).set()


_RUNNING: set[StopSignal] = set()
"""One for every running job of this process."""


def run_job(job: Job, *, progress: Progress, on_checkpoint: OnCheckpoint, worker: str = WORKER) -> None:
    """Run a job to its end in ``settings.runtime.processes`` processes on each of ``settings.runtime.hosts``.

    ``on_checkpoint(step, folder)`` is called for the newest checkpoint, in a thread of its own with
    ``runtime.async_checkpoints``; older ones are then deleted. ``worker`` is the module that the processes run.

    Raises the error of a process as its own kind where it is a MirageError, TrainingError for any other exception,
    OutOfMemory, StageTimeout, TrainingProcessDied (transient) for a killed or silent process, JobCancelled after
    ``cancel_jobs``, TrainingInterrupted (transient) after SIGTERM to a process, or to this one where it has no handler
    of its own: then they have saved. An exception from a callback, or KeyboardInterrupt, ends the processes at once;
    any other exception that is no Exception (such as a SIGTERM handler raises) ends them after they have saved. They
    also end when this process dies.
    """
    job.output.mkdir(parents=True, exist_ok=True)
    job.scratch.mkdir(parents=True, exist_ok=True)
    job_file = Path(tempfile.mkdtemp(prefix="launch-", dir=job.scratch)) / "job.json"
    write_job(job, job_file)
    stop = StopSignal()
    _RUNNING.add(stop)
    try:
        with _stopped_by_sigterm(stop):
            group = start_group(job.settings.runtime, worker, job_file, imports_of(job) if worker == WORKER else ())
            try:
                uploads = CheckpointUploads(on_checkpoint, background=job.settings.runtime.async_checkpoints)
                JobSupervisor(group, job, progress, uploads, stop).wait()
            finally:
                group.stop()
    finally:
        _RUNNING.discard(stop)


def imports_of(job: Job) -> tuple[str, ...]:
    """Return the modules that the processes of a job need, which take seconds to import."""
    trains_sharded = job.program != "evaluate" and job.settings.runtime.engine == "deepspeed"
    return IMPORTS + DEEPSPEED * trains_sharded


def cancel_jobs(*, saving: bool = False) -> int:
    """End every job of this process, whichever thread runs it; returns how many there were.

    Each ends with JobCancelled in its own thread: within a second, and its last checkpoint remains; or, with
    ``saving``, when its step is done and saved (within ``runtime.shutdown_grace_s``).
    """
    running = list(_RUNNING)
    for stop in running:
        stop.cancel(saving=saving)
    return len(running)


@contextlib.contextmanager
def cancel_jobs_on_interrupt() -> Iterator[None]:
    """Cancel the jobs of this process's other threads when the block ends by what is no Exception (a cancelled run).

    They end at once after Ctrl-C; otherwise it was SIGTERM, and they save first.
    """
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        cancel_jobs(saving=not isinstance(error, KeyboardInterrupt))
        raise


@contextlib.contextmanager
def _stopped_by_sigterm(stop: StopSignal) -> Iterator[None]:
    """Let SIGTERM ask the job to save and end, unless this process has another handler for it."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    unhandled = in_main_thread and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if unhandled:
        signal.signal(signal.SIGTERM, lambda number, frame: stop.after_save.set())  # noqa: ARG005
    try:
        yield
    finally:
        if unhandled:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


class JobSupervisor:
    """Watches the processes of a job until all are done: passes on their events, ends them on errors and time-outs."""

    def __init__(
        self, group: ProcessGroup, job: Job, progress: Progress, uploads: CheckpointUploads, stop: StopSignal
    ) -> None:
        self._group, self._job, self._progress, self._uploads, self._stop = group, job, progress, uploads, stop
        self._runtime = job.settings.runtime
        self._reader = EventReader([events_file(group.folder, rank) for rank in range(group.world_size)])
        self._parts: dict[Path, set[int]] = {}
        self._started = self._last_event = time.monotonic()
        self._save_deadline: float | None = None

    def wait(self) -> None:
        """Return when all processes have done their work; raises the error of the job otherwise."""
        try:
            while not self._poll():
                self._stop.now.wait(POLL_EVERY_S)
        except KeyboardInterrupt:
            raise
        except Exception:
            if not self._stop.now.is_set():
                self._uploads.finish(upload_pending=True)  # the next attempt goes on from there
            raise
        except BaseException:
            self._wait_until_saved()
            raise
        self._uploads.finish(upload_pending=False)

    def _poll(self) -> bool:
        """Check the processes, their events and the time once; returns whether all are done."""
        statuses = self._group.exit_statuses()  # before the events: then the last ones of a process are read below
        self._read_events()
        if all(status == 0 for status in statuses):
            return True
        if any(statuses):
            raise self._after_stop(self._group_error())
        if self._stop.now.is_set():
            raise self._cancelled("its last checkpoint")
        self._check_time()
        return False

    def _read_events(self) -> None:
        for event in self._reader.poll():
            self._last_event = time.monotonic()
            if event["kind"] == PROGRESS:
                self._progress(progress_event(event))
            elif event["kind"] == CHECKPOINT and self._is_complete(event["folder"], event["part"], event["parts"]):
                self._uploads.submit(event["step"], Path(event["folder"]))
                self._last_event = time.monotonic()
        self._uploads.start_next()

    def _is_complete(self, folder: str, part: int, parts: int) -> bool:
        arrived = self._parts.setdefault(Path(folder), set())
        arrived.add(part)
        return len(arrived) == parts

    def _check_time(self) -> None:
        """Raise for a job that is too slow: in all, since its last event, or since it was asked to save and stop."""
        if self._stop.after_save.is_set() and self._save_deadline is None:
            self._request_stop()
        now, runtime = time.monotonic(), self._runtime
        if self._save_deadline is not None and now > self._save_deadline:
            limit = f"runtime.shutdown_grace_s = {runtime.shutdown_grace_s} s"
            raise self._after_stop(TrainingProcessDied(f"{self._job.program} did not end within {limit}"))
        if now - self._started > runtime.timeout_s:
            raise StageTimeout(
                f"the processes did not finish within {runtime.timeout_s} s and were stopped. Raise runtime.timeout_s, "
                "or the stage's own in runtime.timeouts, or run again: training goes on from its last checkpoint. End "
                f"of the log:\n{log_tail(self._group.logs[0])}"
            )
        if now - self._last_event > runtime.stall_timeout_s:
            raise TrainingProcessDied(
                f"the processes reported nothing for runtime.stall_timeout_s = {runtime.stall_timeout_s} s and were "
                f"stopped. End of the log:\n{log_tail(self._group.logs[0])}"
            )

    def _request_stop(self) -> None:
        """Ask the processes to finish their step, save and end."""
        self._save_deadline = time.monotonic() + self._runtime.shutdown_grace_s
        stop_file(self._group.folder).touch()

    def _after_stop(self, error: MirageError) -> MirageError:
        """Return the error to raise: ends that were asked for are no failures of the processes."""
        if self._save_deadline is None or not isinstance(error, TrainingInterrupted | TrainingProcessDied):
            return error
        saved = isinstance(error, TrainingInterrupted)
        if self._stop.by_caller:
            return self._cancelled("where it was" if saved else "its last checkpoint")
        if saved:
            return error
        return TrainingInterrupted(
            f"the {self._job.program} job was asked to end and could not save; run again: it goes on from its last "
            f"checkpoint ({error})"
        )

    def _cancelled(self, resume_point: str) -> JobCancelled:
        return JobCancelled(f"the {self._job.program} job was cancelled; run again: it goes on from {resume_point}")

    def _wait_until_saved(self) -> None:
        """Let the processes save, and upload that, before this process ends."""
        self._stop.after_save.set()
        with contextlib.suppress(MirageError):
            self._request_stop()
            while not self._poll():
                time.sleep(POLL_EVERY_S)
        self._uploads.finish(upload_pending=True)

    def _group_error(self) -> MirageError:
        """Return the cause of a failure; the other processes get a moment to record what they know."""
        deadline = time.monotonic() + 1.0
        while None in self._group.exit_statuses() and time.monotonic() < deadline:
            time.sleep(POLL_EVERY_S)
        statuses = self._group.exit_statuses()
        if self._group.uses_agents and (error := host_error(self._group, self._runtime)) is not None:
            return error
        first_failed = next((number for number, status in enumerate(statuses) if status), 0)
        records = [failure_file(self._group.folder, rank) for rank in range(self._group.world_size)]
        return group_error(records, statuses, log_tail(self._group.logs[first_failed]), self._group.names)
