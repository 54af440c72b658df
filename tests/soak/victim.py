"""The process that gets killed: `mirage run --direct`, noting every write to its store, which may also be its last.

The environment says where it notes, and how it ends: MIRAGE_SOAK_LOG, MIRAGE_SOAK_END (JSON of ``End``).
Everything else is the product: its command line, its launcher, its store.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psutil

WRITES = ("write", "create", "put", "put_all", "copy", "move", "link", "remove", "abort")


@dataclass(frozen=True)
class End:
    """Die ``delay_s`` after the ``write``-th write to the store has begun; with or without the training ranks."""

    write: int
    delay_s: float
    whole_group: bool

    def text(self) -> str:
        """As the environment carries it."""
        return json.dumps(asdict(self))


def note(**event: Any) -> None:
    """Append one line to this pipeline's log, at once."""
    line = json.dumps({"attempt": int(os.environ["MIRAGE_SOAK_ATTEMPT"]), "pid": os.getpid(), **event}) + "\n"
    handle = os.open(os.environ["MIRAGE_SOAK_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


class Writes:
    """Counts the writes of this process and ends it in the one that was drawn."""

    def __init__(self, end: End | None) -> None:
        self._end = end
        self._count = 0
        self._lock = threading.Lock()

    def watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """A write operation of a backend that is noted when it begins and when it is done."""

        @functools.wraps(real)
        def work(backend: Any, *args: Any, **rest: Any) -> Any:
            with self._lock:
                self._count += 1
                number = self._count
            note(event="write", number=number, op=name, key=next((g for g in args if isinstance(g, str)), ""))
            if self._end is not None and number == self._end.write:
                threading.Thread(target=die, args=(self._end,), daemon=True).start()
            try:
                return real(backend, *args, **rest)
            finally:
                note(event="written", number=number)

        return work


def die(end: End) -> None:
    """SIGKILL this process, and first its ranks where the whole group goes."""
    time.sleep(end.delay_s)
    note(event="killed", write=end.write)
    if end.whole_group:
        for child in psutil.Process().children(recursive=True):
            child.send_signal(signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def watch_store(end: End | None) -> None:
    """Note every write of every backend, and every checkpoint that is saved."""
    from mirage_core.store import Store
    from mirage_core.store.backends import base

    writes = Writes(end)
    for backend in (base.LocalBackend, base.FsspecBackend):
        for name in WRITES:
            if name in vars(backend):
                setattr(backend, name, writes.watched(name, vars(backend)[name]))
    real = Store.save_checkpoint

    def save_checkpoint(store: Store, run: str, step: int, *args: Any, **rest: Any) -> None:
        folder = os.environ.get("MIRAGE_SOAK_KEPT")
        if folder is not None:
            shutil.copytree(args[0], f"{folder}/{_running[-1]}-{step:08d}", dirs_exist_ok=True)
        real(store, run, step, *args, **rest)
        note(event="saved", program=_running[-1], step=step)

    Store.save_checkpoint = save_checkpoint  # type: ignore[method-assign, assignment]


_running: list[str] = []


def watch_jobs() -> None:
    """Let every job run in the soak's worker, which notes its steps."""
    from mirage_core.distributed import launch

    real = launch.run_job
    args = real.__kwdefaults__ or {}
    assert args["worker"] == launch.WORKER
    args["worker"] = "tests.soak.worker"

    @functools.wraps(real)
    def run_job(job: Any, **rest: Any) -> None:
        _running.append(job.program)
        note(event="job", program=job.program)
        real(job, **rest)

    launch.run_job = run_job


def hurry() -> None:
    """Wait less before a transient fault is tried again: here it is one of ours, and over."""
    from mirage_core.pipeline import recovery as retry

    retry.DELAYS_S = (0.2,) * len(retry.DELAYS_S)


def main() -> None:
    """Run the command line as it is, watched."""
    hurry()
    end = os.environ.get("MIRAGE_SOAK_END")
    watch_store(End(**json.loads(end)) if end else None)
    watch_jobs()
    from flows.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
