"""Processes forked from a server that has imported torch and the programs (fork_server.py), on a CPU under Linux.

One server for each process that starts jobs, begun with its first job. A message is a line of JSON: a request has the
command, environment, folder and log of a process, and what it imports; the answer has its ``pid``, and a later line its
exit ``status``.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mirage_core.errors import TrainingProcessDied

SERVER = "mirage_core.distributed.fork_server"
READ_AT_IMPORT = ("MIRAGE_", "PREFECT_", "PYTEST_", "AWS_")
"""Prefixes of variables that no library reads at its import; where others change, a new server is started."""
POLL_EVERY_S = 0.02
CLOSE_S = 1.0
TITLE_LENGTH = 400
"""Most characters of a forked process's command that ``ps`` shows."""


def can_fork() -> bool:
    """Return whether ranks are forked on this machine: under Linux, without a GPU, whose libraries outlive no fork."""
    devices = (*Path("/dev").glob("nvidia[0-9]*"), *Path("/dev").glob("kfd"))
    return sys.platform == "linux" and not devices


class ForkedProcess:
    """A process of the server, with what a process group uses of ``subprocess.Popen``."""

    stdin = None

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server, self.pid = server, pid

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while the process runs."""
        return self._server.status(self.pid)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; returns the exit status. ``subprocess.TimeoutExpired`` after ``timeout`` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(POLL_EVERY_S)
        return status


class ForkServer:
    """The other side of a server: it starts processes and knows how they ended. Threads may share it."""

    def __init__(self) -> None:
        self.parent, self.environment = os.getpid(), _environment()
        self._socket, other = socket.socketpair()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", SERVER, str(other.fileno()), " " * TITLE_LENGTH],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._lock, self._statuses, self._received = threading.Lock(), dict[int, int](), b""
        self._started: set[int] = set()

    @property
    def usable(self) -> bool:
        """Whether it can start more processes, as this process is now."""
        alive = self.parent == os.getpid() and self._process.poll() is None
        return alive and self.environment == _environment()

    def start(self, command: Sequence[str], log: Path, imports: Sequence[str]) -> ForkedProcess:
        """Start ``python -m`` of ``command``, which finds ``imports`` done. TrainingProcessDied: the server died."""
        request = {
            "command": list(command),
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "log": str(log.absolute()),
            "imports": list(imports),
        }
        with self._lock:
            try:
                self._socket.sendall(json.dumps(request).encode() + b"\n")
                while (pid := self._receive()) is None:
                    pass
            except OSError as error:
                raise TrainingProcessDied(
                    f"the process that starts the others ended ({error}); run again: a new one is started"
                ) from error
            self._started.add(pid)
        return ForkedProcess(self, pid)

    @property
    def idle(self) -> bool:
        """Whether all that it has started has ended."""
        return all(self.status(pid) is not None for pid in self._started)

    def status(self, pid: int) -> int | None:
        """Return the exit status of a process; None while it runs. Where the server died, its processes were killed."""
        with self._lock:
            try:
                self._socket.setblocking(False)
                while pid not in self._statuses:
                    self._receive()
            except BlockingIOError:
                return None
            except OSError:
                return -signal.SIGKILL
            finally:
                self._socket.setblocking(True)
            return self._statuses[pid]

    def close(self) -> None:
        """End the server, and what it has started."""
        self._socket.close()
        if self.parent == os.getpid():
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_S)
            self._process.kill()
            self._process.wait()

    def _receive(self) -> int | None:
        """Read one message: record an exit status, or return the id of a new process. ConnectionError at the end."""
        while b"\n" not in self._received:
            part = self._socket.recv(65536)
            if not part:
                raise ConnectionError("connection closed")
            self._received += part
        line, self._received = self._received.split(b"\n", 1)
        message: dict[str, int] = json.loads(line)
        if "status" not in message:
            return message["pid"]
        self._statuses[message["pid"]] = message["status"]
        return None


_server: ForkServer | None = None
_ONE_AT_A_TIME = threading.Lock()


def start_forked(command: Sequence[str], log: Path, imports: Sequence[str]) -> ForkedProcess:
    """Start ``python -m`` of ``command`` as a process that ends with its server, and so with this process.

    ``imports`` are modules that it finds imported. TrainingProcessDied where the server died.
    """
    global _server
    with _ONE_AT_A_TIME:
        if _server is not None and not _server.usable:
            if _server.idle:  # else another job still runs in it: it ends with this process
                atexit.unregister(_server.close)
                _server.close()
            _server = None
        if _server is None:
            _server = ForkServer()
            atexit.register(_server.close)
        return _server.start([*command, "--parent", str(_server.pid)], log, imports)


def _environment() -> dict[str, str]:
    """Return the variables that libraries may have read when they were imported."""
    return {name: value for name, value in os.environ.items() if not name.startswith(READ_AT_IMPORT)}
