"""A worker whose processes really join a group, on one host or several, and do what the test asks for."""

from __future__ import annotations

import os
import time

from mirage_core.distributed.context import catch_sigterm, current_process
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.distributed.worker import exit_now, worker_process
from mirage_core.errors import DataError, TrainingInterrupted
from mirage_core.types import ProgressEvent


def act(job: Job, events: EventWriter) -> None:
    from mirage_core.distributed.collectives import sum_over_processes, wait_for_all

    rank, world_size = current_process().rank, current_process().world_size
    chosen = job.options["act"]
    figures = {
        "pid": float(os.getpid()),
        "local_rank": float(os.environ["LOCAL_RANK"]),
        **sum_over_processes({"sum": rank + 1.0}),
    }
    with catch_sigterm() as stop_request:
        events(ProgressEvent(stage="fake", step=rank, total=world_size, metrics=figures))
        if chosen == "data-error" and rank == 1:
            raise DataError("row 3 has no image")
        while chosen == "save-when-asked":
            time.sleep(0.05)
            if sum_over_processes({"requests": float(bool(stop_request))})["requests"]:
                save(job, events, 7)
                wait_for_all()
                raise TrainingInterrupted("interrupted at step 7")
        if chosen == "add":
            save(job, events, 1)
            wait_for_all()
            return
        time.sleep(120)


def save(job: Job, events: EventWriter, step: int) -> None:
    folder = job.scratch / f"checkpoint-{step}"
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text("whole")
    events.checkpoint(step, folder, part=current_process().rank, parts=current_process().world_size)


if __name__ == "__main__":
    with worker_process() as (job, events):
        act(job, events)
    exit_now()
