"""Processes that share one import of torch and DeepSpeed: forked from a server that has imported them.

For tests whose subject is what processes do together, not how they are started: a start of one's own takes ten seconds
of CPU time, nearly all of it for imports. tests/distributed starts processes as the product does.

The server is itself forked from the process that runs the tests, before the first of them: what the test files import
is there already.
"""

from __future__ import annotations

import functools
import gc
import importlib
import multiprocessing
import os
import runpy
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver, util
from multiprocessing.context import BaseContext
from pathlib import Path
from types import SimpleNamespace

import pytest

from mirage_core.distributed.forked import can_fork

PRELOADED = [
    "mirage_core.training.warmup.objective",
    "mirage_core.training.sft.train",
    "mirage_core.training.grpo.train",
    "mirage_core.evaluation.evaluate",
]
DEEPSPEED = (
    "deepspeed",
    "deepspeed.runtime.zero.muon.original_muon",  # with it torch's compiler, which DeepSpeed's optimizers import
)
"""Imported by the server at SIGUSR1: four seconds that most processes do without."""
_ONE_AT_A_TIME = threading.Lock()
"""multiprocessing reads the exit status of a process once, and at the start of another, too."""


@functools.cache
def _processes() -> BaseContext:
    """Where processes come from; a machine with a GPU forks none, since CUDA does not outlive a fork."""
    if not can_fork():
        return multiprocessing.get_context("spawn")
    return multiprocessing.get_context("forkserver")


def start_server() -> None:
    """Start the server of this process; it imports the rest when it is first asked for a process."""

    def fork(_: bytes, command: list[str], passed: list[int]) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # what comes before it listens is not lost
        if pid := os.fork():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
            return pid
        try:
            _serve(*passed)
        finally:
            os._exit(1)

    with pytest.MonkeyPatch.context() as patch:
        forked = SimpleNamespace(**{**vars(util), "spawnv_passfds": fork})
        patch.setattr(forkserver, "util", forked)
        forkserver.ensure_running()


def _serve(listener: int, alive: int) -> None:
    """Be the server, with nothing of the test runner's but what is imported."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for entry in os.listdir("/proc/self/fd"):  # else who waits for the end of a pipe waits for this process
        if int(entry) not in (listener, alive, nothing):
            os.dup2(nothing, int(entry))
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(fd, mode, closefd=False) for fd, mode in enumerate(("r", "w", "w")))
    sys.excepthook, sys.unraisablehook = sys.__excepthook__, sys.__unraisablehook__
    threading.excepthook = threading.__excepthook__
    warnings.resetwarnings()
    signal.signal(signal.SIGUSR1, lambda number, frame: [importlib.import_module(name) for name in DEEPSPEED])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    select.select([listener, alive], [], [])
    forkserver.main(listener, alive, PRELOADED)


@functools.cache
def with_deepspeed() -> None:
    """From now on processes have DeepSpeed imported."""
    if _processes().get_start_method() == "forkserver":
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGUSR1)


class Forked:
    """A process that runs ``python -m``, with what the launcher uses of subprocess.Popen."""

    stdin = None

    def __init__(self, command: Sequence[str], *, log: Path) -> None:
        assert list(command[:2]) == [sys.executable, "-m"], f"only modules are run: {command}"
        self.command = list(command)
        arguments = (self.command[2:], dict(os.environ), os.getcwd(), str(log))
        self._process = _processes().Process(target=_run, args=arguments)  # type: ignore[attr-defined]
        with _ONE_AT_A_TIME:
            self._process.start()
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        with _ONE_AT_A_TIME:
            status: int | None = self._process.exitcode
        return status

    def wait(self, timeout: float | None = None) -> int | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None and (deadline is None or time.monotonic() < deadline):
            time.sleep(0.02)
        return self.poll()

    def kill(self) -> None:
        self._process.kill()


def _run(arguments: list[str], environment: dict[str, str], folder: str, log: str) -> None:
    gc.freeze()  # DeepSpeed collects garbage for every engine: a third of a second for all that is imported
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if "--parent" in arguments:  # a worker ends with it; this one's is the server, which ends with the test
        arguments[arguments.index("--parent") + 1] = str(os.getppid())
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def run_ranks(module: str, folder: Path, commands: Sequence[Sequence[str | Path]], timeout_s: float = 300) -> None:
    """Run ``python -m module`` for each of ``commands``, all at once, with DeepSpeed; each must succeed."""
    with_deepspeed()
    logs = [folder / f"rank-{rank}.log" for rank in range(len(commands))]
    started = [
        Forked([sys.executable, "-m", module, *map(str, arguments)], log=log)
        for arguments, log in zip(commands, logs, strict=True)
    ]
    deadline = time.monotonic() + timeout_s
    statuses = [process.wait(max(0.0, deadline - time.monotonic())) for process in started]
    for process in started:
        if process.poll() is None:
            process.kill()
    assert statuses == [0] * len(commands), "\n".join(log.read_text(errors="replace")[-4000:] for log in logs)


@contextmanager
def forked_jobs() -> Iterator[list[Forked]]:
    """Fork the processes of all jobs of the block; yields the list of them, which grows."""
    started: list[Forked] = []

    def start_forked(command: Sequence[str], log: Path, imports: Sequence[str]) -> Forked:
        started.append(Forked([sys.executable, "-m", *command, "--parent", "0"], log=log))
        return started[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mirage_core.distributed.process_group.can_fork", lambda: True)
        patch.setattr("mirage_core.distributed.process_group.start_forked", start_forked)
        yield started
