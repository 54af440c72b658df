"""A training checkpoint on disk: a shard of the state a process, the curves, kept files, a small JSON; no pickle.

checkpoint.json           program, step, optimizer steps, number of shards, shapes of the trained parameters
shard-00000.safetensors   what process 0 held: runs of flattened tensors, and where each begins (training/state.py)
curves.parquet            the figures so far
kept/                     what the training program put into its scratch folder "kept"
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from mirage_core.errors import ArtifactDamaged, TrainingError
from mirage_core.training.checkpoint.sharded_state import EngineState, Shard
from mirage_core.training.logging.curves import Curves

VERSION = 2
ABOUT_FILE, CURVES_FILE, KEPT = "checkpoint.json", "curves.parquet", "kept"


def shard_file(folder: Path, rank: int) -> Path:
    """The file of one process."""
    return folder / f"shard-{rank:05d}.safetensors"


def write_common(folder: Path, program: str, step: int, world_size: int, shard: Shard, curves: Curves) -> None:
    """Write what is not of a single process: the JSON and the curves, after ``step`` optimizer steps."""
    curves.write(folder / CURVES_FILE)
    about = {
        "version": VERSION,
        "program": program,
        "step": step,
        "optimizer_steps": shard.steps,
        "shards": world_size,
        "shapes": {name: list(shape) for name, shape in shard.shapes.items()},
    }
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def read_checkpoint(folder: Path, program: str) -> tuple[int, EngineState, Curves]:
    """Open a checkpoint: the steps done, the state, the curves.

    ArtifactDamaged for a folder that is not one; TrainingError for one of another program.
    """
    about = _about(folder)
    if (about.get("version"), about.get("program")) != (VERSION, program):
        raise TrainingError(
            f"{folder} is a checkpoint of {about.get('program')} (format {about.get('version')}), expected {program} "
            f"(format {VERSION}). Delete it, then run again"
        )
    files = [shard_file(folder, rank) for rank in range(about["shards"])]
    state = EngineState(about["optimizer_steps"], about["shapes"], files)
    return about["step"], state, Curves.read(folder / CURVES_FILE)


def _about(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"{ABOUT_FILE} holds no object")
    except (OSError, ValueError) as error:
        raise ArtifactDamaged(f"{folder} is not a training checkpoint: {error}. Delete it, then run again") from error
    return found


def add_kept(checkpoint: Path, scratch: Path) -> None:
    """Let the files of ``scratch/kept`` travel with a checkpoint: linked, since they are only ever replaced."""
    kept = scratch / KEPT
    if not kept.is_dir():
        return
    (checkpoint / KEPT).mkdir()
    for file in sorted(path for path in kept.iterdir() if path.is_file() and not path.name.startswith(".")):
        _link(file, checkpoint / KEPT / file.name)


def restore_kept(checkpoint: Path | None, scratch: Path) -> None:
    """Make ``scratch/kept`` what it was at a checkpoint (copies: that may lie in the store); empty without one."""
    kept = scratch / KEPT
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    if checkpoint is not None and (checkpoint / KEPT).is_dir():
        for file in (checkpoint / KEPT).iterdir():
            shutil.copyfile(file, kept / file.name)


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # a file system without links
        shutil.copyfile(file, target)
