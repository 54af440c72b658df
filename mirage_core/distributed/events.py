"""What the processes of a job report to their launcher: events as JSON lines, an error as a small JSON file; no pickle.

Each process has its own files.
"""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mirage_core import errors
from mirage_core.distributed.oom import is_out_of_memory
from mirage_core.errors import MirageError, OutOfMemory, TrainingError, TrainingProcessDied
from mirage_core.types import ProgressEvent

PROGRESS = "progress"
CHECKPOINT = "checkpoint"
LOST_PEER_SIGNS = (
    "Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL", "SocketException",
)  # fmt: skip
"""What libraries write in the message of a RuntimeError when another process of the group is gone."""


class EventWriter:
    """Appends events to a process's file from any thread; each line reaches the file at once. Itself a ``Progress``."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def __call__(self, event: ProgressEvent) -> None:
        """Report a step of the work."""
        self._write({"kind": PROGRESS, **asdict(event), "metrics": dict(event.metrics)})

    def checkpoint(self, step: int, folder: Path, part: int = 0, parts: int = 1) -> None:
        """Announce that a part of a checkpoint is on the disk; with all its parts it is complete."""
        self._write({"kind": CHECKPOINT, "step": step, "folder": str(folder), "part": part, "parts": parts})

    def _write(self, event: Mapping[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(event) + "\n")
            self._file.flush()


class EventReader:
    """Reads the events files of all processes as they grow; a line half written is left for the next call."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._offsets = dict.fromkeys(paths, 0)

    def poll(self) -> Iterator[dict[str, Any]]:
        """Yield the events written since the last call, file by file."""
        for path in self._offsets:
            yield from self._read(path)

    def _read(self, path: Path) -> Iterator[dict[str, Any]]:
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._offsets[path])
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._offsets[path] += len(complete)
        for line in complete.splitlines():
            yield json.loads(line)


def progress_event(event: Mapping[str, Any]) -> ProgressEvent:
    """Return the record that a progress line was written from."""
    return ProgressEvent(**{key: value for key, value in event.items() if key != "kind"})


def write_failure(path: Path, error: BaseException, rank: int) -> None:
    """Record the error of process ``rank``; the file appears complete or not at all."""
    record = {
        "rank": rank,
        "time": time.time(),
        "kinds": [kind.__name__ for kind in type(error).__mro__],
        "expected": isinstance(error, MirageError),
        "out_of_memory": is_out_of_memory(error),
        "peer_lost": _is_lost_peer(error),
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record), encoding="utf-8")
    os.replace(partial, path)


def group_error(
    paths: Sequence[Path], statuses: Sequence[int | None], log_tail: str, names: Sequence[str]
) -> MirageError:
    """Return the error to raise for a group that failed: the cause, not its effects in the other processes.

    ``statuses`` are the exit statuses of the processes ``names``, None for one still running. A MirageError comes back
    as its own kind; a lack of memory as OutOfMemory, whichever process noticed it; another exception as TrainingError;
    a process that was killed as TrainingProcessDied.
    """
    records = [json.loads(path.read_text("utf-8")) for path in paths if path.exists()]
    records.sort(key=lambda record: float(record["time"]))
    for record in records:
        if record["out_of_memory"]:
            return OutOfMemory(f"process {record['rank']}: {record['kinds'][0]}: {record['message']}")
    for record in records:
        if not record["peer_lost"]:
            return _restored(record, log_tail)
    failed = {name: status for name, status in zip(names, statuses, strict=True) if status}
    killed = [f"{name} was killed by signal {-status}" for name, status in failed.items() if status < 0]
    exited = [f"{name} ended with status {status}" for name, status in failed.items()]
    return TrainingProcessDied(
        f"{', '.join(killed or exited) or 'a process was lost'} before its work was done (signal 9 is often the system "
        f"running out of memory). Run again: training goes on from its last checkpoint. End of the log:\n{log_tail}"
    )


def _restored(record: dict[str, Any], log_tail: str) -> MirageError:
    """Return a recorded error as its own kind where it was a MirageError, else as TrainingError."""
    if not record["expected"]:
        return TrainingError(
            f"process {record['rank']} failed: {record['kinds'][0]}: {record['message']}\n"
            f"{record['traceback'][-4000:]}\nEnd of the log:\n{log_tail}"
        )
    kind = next((getattr(errors, name) for name in record["kinds"] if hasattr(errors, name)), TrainingError)
    error: MirageError = kind(record["message"])
    return error


def _is_lost_peer(error: BaseException) -> bool:
    """Whether the error only reports that another process went away."""
    if isinstance(error, MirageError) or is_out_of_memory(error):
        return False
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST_PEER_SIGNS)
