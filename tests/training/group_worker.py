"""A worker whose processes really join a group, on one host or several, and do what the test asks for."""

from __future__ import annotations

import os
import time

import mirage_core.distributed.worker as worker
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.interruption import hearing_sigterm
from mirage_core.distributed.job import Job
from mirage_core.errors import DataError, TrainingInterrupted
from mirage_core.types import ProgressEvent


def act(job: Job, rank: int, world_size: int, emit: EventWriter) -> None:
    from mirage_core.distributed.collectives import added, wait_for_all

    chosen = job.options["act"]
    figures = {
        "pid": float(os.getpid()),
        "local_rank": float(os.environ["LOCAL_RANK"]),
        **added({"sum": rank + 1.0}),
    }
    with hearing_sigterm() as asked:
        emit(ProgressEvent(stage="fake", step=rank, total=world_size, metrics=figures))
        if chosen == "data-error" and rank == 1:
            raise DataError("row 3 has no image")
        while chosen == "save-when-asked":
            time.sleep(0.05)
            if added({"asked": float(bool(asked))})["asked"]:
                save(job, rank, world_size, emit, 7)
                wait_for_all()
                raise TrainingInterrupted("interrupted at step 7")
        if chosen == "add":
            save(job, rank, world_size, emit, 1)
            wait_for_all()
            return
        time.sleep(120)


def save(job: Job, rank: int, world_size: int, emit: EventWriter, step: int) -> None:
    folder = job.scratch / f"checkpoint-{step}"
    folder.mkdir(exist_ok=True)
    (folder / "weights").write_text("whole")
    emit.checkpoint(step, folder, part=rank, parts=world_size)


if __name__ == "__main__":
    worker.PROGRAMS["text"] = "tests.training.group_worker:act"
    worker.leave(worker.main())
