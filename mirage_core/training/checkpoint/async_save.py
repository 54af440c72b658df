"""Checkpoints while training goes on: a copy in main memory, then written in the background, never two at once."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from mirage_core.distributed.collectives import wait_for_all
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.training.checkpoint.checkpoint import add_kept, shard_file, write_common
from mirage_core.training.checkpoint.sharded_state import Shard, write_shard
from mirage_core.training.logging.curves import Curves


class Saver:
    """Writes this process's part of checkpoints to the job's scratch folder and announces them.

    With ``runtime.async_checkpoints`` a file is written while the next steps are taken; an error of that is raised by
    the next call.
    """

    def __init__(self, job: Job, rank: int, world_size: int, emit: EventWriter) -> None:
        self._job, self._rank, self._world_size, self._emit = job, rank, world_size, emit
        self._in_background = job.settings.runtime.async_checkpoints
        self._writing: threading.Thread | None = None
        self._problem: BaseException | None = None

    def save(self, step: int, shard: Shard, curves: Curves) -> None:
        """Save the state after ``step`` steps; every process calls this with its own shard."""
        self.wait()
        folder = self._job.scratch / "checkpoints" / f"step-{step:08d}"
        if self._rank == 0:
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier attempt in the same place
            folder.mkdir(parents=True)
            add_kept(folder, self._job.scratch)
            write_common(folder, self._job.program, step, self._world_size, shard, curves)
        wait_for_all()
        if not self._in_background:
            self._write(step, folder, shard)
            return
        copied = shard.copied()
        self._writing = threading.Thread(target=self._guarded, args=(step, folder, copied), name="checkpoint")
        self._writing.start()

    def wait(self) -> None:
        """Return when nothing is being written; raises the error of what was."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def _guarded(self, step: int, folder: Path, shard: Shard) -> None:
        try:
            self._write(step, folder, shard)
        except BaseException as error:
            self._problem = error

    def _write(self, step: int, folder: Path, shard: Shard) -> None:
        write_shard(shard_file(folder, self._rank), shard)
        self._emit.checkpoint(step, folder, part=self._rank, parts=self._world_size)
