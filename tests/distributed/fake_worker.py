"""A worker whose programs do what the test of the launcher asks for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from mirage_core.distributed.context import catch_sigterm, current_process
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.distributed.worker import exit_now, worker_process
from mirage_core.errors import DataError, TrainingInterrupted
from mirage_core.types import ProgressEvent


class OutOfMemoryError(RuntimeError):
    """As torch's own, without torch."""


def sleeping_child() -> int:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid


def save_twice(job: Job, events: EventWriter) -> None:
    for step in (1, 2):
        folder = job.scratch / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_text(str(step))
        events.checkpoint(step, folder)
        time.sleep(0.5)


def save_when_asked(job: Job, events: EventWriter) -> None:
    """Wait for SIGTERM as a training does, then save: each rank its part, the last one first."""
    rank, world_size = current_process().rank, current_process().world_size
    with catch_sigterm() as stop_request:
        while not stop_request:
            time.sleep(0.02)
        folder = job.scratch / "checkpoint-7"
        folder.mkdir(exist_ok=True)
        (folder / "weights").write_text("saved")
        time.sleep(0.3 * (world_size - rank))
        events.checkpoint(7, folder, part=rank, parts=world_size)
        (folder / f"part-{rank}").touch()
        while len(list(folder.glob("part-*"))) < world_size:  # as the barrier does: nobody ends before all have saved
            time.sleep(0.02)
        raise TrainingInterrupted("fake was interrupted at step 7 of 9, and saved there: run again")


def act(job: Job, events: EventWriter) -> None:
    rank, world_size = current_process().rank, current_process().world_size
    chosen = job.options["act"]
    pid = os.getpid() if chosen != "hang-with-children" else sleeping_child()
    events(ProgressEvent(stage="fake", step=rank, total=world_size, metrics={"pid": float(pid)}))
    print(f"rank {rank} acts")
    if chosen == "checkpoints" and rank == 0:
        save_twice(job, events)
    if chosen == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if chosen == "save-when-asked":
        save_when_asked(job, events)
    if chosen == "data-error" and rank == 1:
        raise DataError("row 3 has no image")
    if chosen == "lost-peer" and rank == 0:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")
    if chosen == "out-of-memory" and rank == 1:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
    if chosen == "bug" and rank == 1:
        raise ZeroDivisionError("a bug")
    if chosen in ("killed", "lost-peer") and rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if chosen not in ("fine", "checkpoints"):
        time.sleep(60)


if __name__ == "__main__":
    with worker_process() as (job, events):
        act(job, events)
    exit_now()
