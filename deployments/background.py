"""A process in the background: started, recognised again by another command, and stopped with its children."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from mirage_core.errors import MirageError


class StackError(MirageError):
    """The local stack cannot do what was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """A started process: ``created`` tells it from a later one that was given the same pid."""

    pid: int
    created: float
    port: int | None = None


def start(
    command: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: Path
) -> subprocess.Popen[bytes]:
    """Start ``command`` in a session of its own, its output appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def remember(path: Path, process: subprocess.Popen[bytes], port: int | None = None) -> Background:
    """Write down who was started, for the next command; returns what was written."""
    known = Background(pid=process.pid, created=psutil.Process(process.pid).create_time(), port=port)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(known)))
    return known


def recall(path: Path) -> Background | None:
    """Who was started and still runs; None where nobody does."""
    try:
        known = Background(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return known if _process(known) else None


def stop(known: Background, patience_s: float = 20.0) -> None:
    """End the process and all its children: asked first, killed after ``patience_s`` seconds."""
    process = _process(known)
    if process is None:
        return
    family = [process, *process.children(recursive=True)]
    process.terminate()
    psutil.wait_procs([process], timeout=patience_s)
    rest = [member for member in family if member.is_running()]
    for member in rest:
        _signal(member, "terminate")
    _, stubborn = psutil.wait_procs(rest, timeout=patience_s)
    for member in stubborn:
        _signal(member, "kill")
    psutil.wait_procs(stubborn, timeout=5)


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message."""
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _process(known: Background) -> psutil.Process | None:
    try:
        process = psutil.Process(known.pid)
        same = abs(process.create_time() - known.created) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _signal(process: psutil.Process, how: str) -> None:
    try:
        getattr(process, how)()
    except psutil.NoSuchProcess:
        return
