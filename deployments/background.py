"""Processes in the background: start one, find it again by its pid file, stop it with its children."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from mirage_core.errors import MirageError


class StackError(MirageError):
    """The local stack cannot start, stop or deploy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundProcess:
    """A started process; ``created`` distinguishes it from a later one with the same pid."""

    pid: int
    created: float
    port: int | None = None


def start(
    command: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: Path
) -> subprocess.Popen[bytes]:
    """Start ``command`` in its own session; append its output to ``log``."""
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


def write_pid_file(path: Path, process: subprocess.Popen[bytes], port: int | None = None) -> BackgroundProcess:
    """Write the pid file of a started process, for later commands; return its content."""
    process_info = BackgroundProcess(pid=process.pid, created=psutil.Process(process.pid).create_time(), port=port)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(process_info)))
    return process_info


def read_pid_file(path: Path) -> BackgroundProcess | None:
    """Return the process of a pid file; None where it no longer runs."""
    try:
        process_info = BackgroundProcess(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return process_info if _process(process_info) else None


def stop(process_info: BackgroundProcess, timeout_s: float = 20.0) -> None:
    """Terminate the process and all its children; kill what is left after ``timeout_s`` seconds."""
    process = _process(process_info)
    if process is None:
        return
    family = [process, *process.children(recursive=True)]
    process.terminate()
    psutil.wait_procs([process], timeout=timeout_s)
    remaining = [member for member in family if member.is_running()]
    for member in remaining:
        _signal(member, "terminate")
    _, stubborn = psutil.wait_procs(remaining, timeout=timeout_s)
    for member in stubborn:
        _signal(member, "kill")
    psutil.wait_procs(stubborn, timeout=5)


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log, for an error message."""
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _process(process_info: BackgroundProcess) -> psutil.Process | None:
    try:
        process = psutil.Process(process_info.pid)
        same = abs(process.create_time() - process_info.created) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _signal(process: psutil.Process, method: str) -> None:
    try:
        getattr(process, method)()
    except psutil.NoSuchProcess:
        return
