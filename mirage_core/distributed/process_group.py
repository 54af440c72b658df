"""The processes of one job: their files, how they are started one by one on this machine, and how all are ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

GRACE_S = 5.0
LOG_TAIL_BYTES = 4000


@dataclass(frozen=True)
class Group:
    """What this process has started for a job: its ranks, or one process a host that starts them.

    ``names`` say in messages who each of ``processes`` is, ``logs`` hold what it printed. One that ``listens`` ends,
    with all it has started, when its standard input is closed.
    """

    folder: Path
    world_size: int
    names: tuple[str, ...]
    logs: tuple[Path, ...]
    processes: tuple[subprocess.Popen[bytes], ...]
    listens: bool = False

    def exits(self) -> list[int | None]:
        """Exit statuses; None for a process still running."""
        return [process.poll() for process in self.processes]


def start_ranks(worker: str, job_file: Path, world_size: int) -> Group:
    """Start every rank on this machine."""
    folder, processes = job_file.parent, list[subprocess.Popen[bytes]]()
    try:
        for rank in range(world_size):
            command = [sys.executable, "-m", worker, str(job_file)]
            command += ["--rank", str(rank), "--world-size", str(world_size), "--parent", str(os.getpid())]
            processes.append(start_process(command, log_file(folder, rank)))
    except BaseException:
        stop(Group(folder, world_size, (), (), tuple(processes)))
        raise
    ranks = range(world_size)
    names, logs = tuple(f"process {rank}" for rank in ranks), tuple(log_file(folder, rank) for rank in ranks)
    return Group(folder, world_size, names, logs, tuple(processes))


def start_process(command: list[str], log: Path, *, listens: bool = False) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own: a signal to the group ends what it has started, and nothing else."""
    with log.open("wb") as written:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE if listens else subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def stop(group: Group) -> None:
    """End every process of the group at once; returns when all are gone.

    Ranks are not asked first: SIGTERM means to them that they may finish their step and save.
    """
    if group.listens:
        _hang_up(group)
    for process in group.processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # gone already (macOS: the second)
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _hang_up(group: Group) -> None:
    """Close what the processes listen to, and give them a moment to end all they have started."""
    for process in group.processes:
        if process.stdin is not None:
            with contextlib.suppress(OSError):  # gone already
                process.stdin.close()
    deadline = time.monotonic() + GRACE_S
    for process in group.processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.0, deadline - time.monotonic()))


def log_file(folder: Path, rank: int) -> Path:
    """What a process printed."""
    return folder / f"rank-{rank}.log"


def events_file(folder: Path, rank: int) -> Path:
    """What a process reported."""
    return folder / f"rank-{rank}.events.jsonl"


def failure_file(folder: Path, rank: int) -> Path:
    """Why a process failed."""
    return folder / f"rank-{rank}.failure.json"


def log_tail(path: Path) -> str:
    """The end of a log; empty when nothing was printed."""
    if not path.exists():
        return ""
    return path.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", errors="replace")
