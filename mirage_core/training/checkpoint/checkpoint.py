"""A training checkpoint on disk: one shard of the state per process, curves, extra files, a small JSON; no pickle.

checkpoint.json           program, step, optimizer steps, number of shards, shapes of the trained parameters
shard-00000.safetensors   the state in process 0: runs of flattened tensors, and where each begins (sharded_state.py)
curves.parquet            the figures so far
kept/                     the files of the job's scratch folder "kept"
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mirage_core.distributed.collectives import wait_for_all
from mirage_core.distributed.context import current_process
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.errors import ArtifactDamaged, TrainingError
from mirage_core.json_values import read_json
from mirage_core.training.checkpoint.sharded_state import EngineState, Shard, write_shard
from mirage_core.training.logging.curves import Curves

VERSION = 2
_LARGEST, _MOST_SHARDS = 2**40, 2**16
METADATA_FILE, CURVES_FILE = "checkpoint.json", "curves.parquet"
EXTRA_FILES = "kept"
"""The folder in a job's scratch whose files travel with every checkpoint."""


class CheckpointSaver:
    """Writes this process's part of checkpoints to the job's scratch folder and announces them.

    With ``runtime.async_checkpoints`` the state is copied to main memory and written while the next steps are taken,
    never two at once; an error of that is raised by the next call.
    """

    def __init__(self, job: Job, events: EventWriter) -> None:
        self._job, self._events, self._process = job, events, current_process()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, step: int, shard: Shard, curves: Curves) -> None:
        """Save the state after ``step`` steps; every process calls this with its own shard."""
        self.wait()
        folder = self._job.scratch / "checkpoints" / f"step-{step:08d}"
        if self._process.is_main:
            shutil.rmtree(folder, ignore_errors=True)  # of an earlier attempt
            folder.mkdir(parents=True)
            add_extra_files(folder, self._job.scratch)
            write_common(folder, self._job.program, step, shard, curves)
        wait_for_all()
        if not self._job.settings.runtime.async_checkpoints:
            self._write(step, folder, shard)
            return
        copy = shard.copy_to_cpu()
        self._thread = threading.Thread(target=self._write_guarded, args=(step, folder, copy), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being written; raises the error of what was."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write_guarded(self, step: int, folder: Path, shard: Shard) -> None:
        try:
            self._write(step, folder, shard)
        except BaseException as error:
            self._error = error

    def _write(self, step: int, folder: Path, shard: Shard) -> None:
        write_shard(shard_file(folder, self._process.rank), shard)
        self._events.checkpoint(step, folder, part=self._process.rank, parts=self._process.world_size)


def shard_file(folder: Path, rank: int) -> Path:
    """Return the file of one process's shard."""
    return folder / f"shard-{rank:05d}.safetensors"


def write_common(folder: Path, program: str, step: int, shard: Shard, curves: Curves) -> None:
    """Write the JSON and the curves after ``step`` optimizer steps, which belong to no single process."""
    curves.write(folder / CURVES_FILE)
    metadata = {
        "version": VERSION,
        "program": program,
        "step": step,
        "optimizer_steps": shard.steps,
        "shards": current_process().world_size,
        "shapes": {name: list(shape) for name, shape in shard.shapes.items()},
    }
    (folder / METADATA_FILE).write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")


def read_checkpoint(folder: Path, program: str) -> tuple[int, EngineState, Curves]:
    """Open a checkpoint; returns the steps done, the state and the curves.

    ArtifactDamaged for a folder that is not one; TrainingError for one of another program.
    """
    metadata = _read_metadata(folder)
    if (metadata.get("version"), metadata.get("program")) != (VERSION, program):
        raise TrainingError(
            f"{folder} is a checkpoint of {metadata.get('program')} (format {metadata.get('version')}), expected "
            f"{program} (format {VERSION}). Delete it, then run again"
        )
    files = [shard_file(folder, rank) for rank in range(metadata["shards"])]
    state = EngineState(metadata["optimizer_steps"], metadata["shapes"], files)
    return metadata["step"], state, Curves.read(folder / CURVES_FILE)


def _read_metadata(folder: Path) -> dict[str, Any]:
    try:
        metadata = read_json((folder / METADATA_FILE).read_bytes())
        if not isinstance(metadata, dict):
            raise ValueError(f"{METADATA_FILE} holds no object")
        if metadata.get("version") == VERSION:
            _check_metadata(metadata)
    except (OSError, ValueError) as error:
        raise ArtifactDamaged(f"{folder} is not a training checkpoint: {error}. Delete it, then run again") from error
    return metadata


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    """Raise ValueError for numbers that are none, and for shapes that are no lists of numbers."""
    for name in ("step", "optimizer_steps", "shards"):
        if type(metadata.get(name)) is not int or not 0 <= metadata[name] < _LARGEST:
            raise ValueError(f"{name} is {metadata.get(name)!r:.80}, expected a whole number")
    if metadata["shards"] > _MOST_SHARDS:
        raise ValueError(f"it has {metadata['shards']} shards, expected one a process")
    shapes = metadata.get("shapes")
    sides = [side for shape in shapes.values() for side in _sides(shape)] if isinstance(shapes, dict) else [None]
    if not all(type(side) is int and 0 <= side < _LARGEST for side in sides):
        raise ValueError(f"shapes is {shapes!r:.80}, expected a list of whole numbers a parameter")


def _sides(shape: Any) -> Sequence[Any]:
    return shape if isinstance(shape, list) else [None]


def add_extra_files(checkpoint: Path, scratch: Path) -> None:
    """Add the files of ``scratch/kept`` to a checkpoint: as hard links, since they are only ever replaced."""
    source = scratch / EXTRA_FILES
    if not source.is_dir():
        return
    (checkpoint / EXTRA_FILES).mkdir()
    for file in sorted(path for path in source.iterdir() if path.is_file() and not path.name.startswith(".")):
        target = checkpoint / EXTRA_FILES / file.name
        try:
            os.link(file, target)
        except OSError:  # a file system without links
            shutil.copyfile(file, target)


def restore_extra_files(checkpoint: Path | None, scratch: Path) -> None:
    """Restore ``scratch/kept`` from a checkpoint (copies: that may lie in the store); empty it without one."""
    target = scratch / EXTRA_FILES
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    if checkpoint is not None and (checkpoint / EXTRA_FILES).is_dir():
        for file in (checkpoint / EXTRA_FILES).iterdir():
            shutil.copyfile(file, target / file.name)
