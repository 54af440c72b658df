"""What the processes of a job tell their parent: JSON lines in one file a process."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mirage_core.types import ProgressEvent

PROGRESS = "progress"
CHECKPOINT = "checkpoint"


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
    """Follows the files of all processes; a line half written is left for the next look."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._offsets = dict.fromkeys(paths, 0)

    def poll(self) -> Iterator[dict[str, Any]]:
        """Events written since the last call, file by file."""
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
    """The record a progress line was made of."""
    return ProgressEvent(**{key: value for key, value in event.items() if key != "kind"})
