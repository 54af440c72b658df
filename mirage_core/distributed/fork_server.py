"""A process that has imported what jobs need, and forks one process for each rank: a start costs seconds of imports.

Run as ``python -m mirage_core.distributed.fork_server SOCKET BLANKS`` by ``forked.py``, which says what the messages
are. It has one thread and uses no device, so that a fork of it is a fresh process that finds its imports done. Blanks
are room for the command that ``ps`` shows of such a process.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import shlex
import signal
import socket
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from setproctitle import getproctitle, setproctitle

LOOK_FOR_PARENT_S = 1.0


def main(arguments: list[str]) -> None:
    """Fork a process for each line of the socket; end when the other side closes it, or is gone."""
    connection, parent = socket.socket(fileno=int(arguments[0])), os.getppid()
    wakeup, signalled = socket.socketpair()
    signalled.setblocking(False)
    signal.set_wakeup_fd(signalled.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # noqa: ARG005 (it only wakes the loop)
    os.environ["SPT_NOENV"] = "1"  # titles leave /proc/PID/environ as it is
    getproctitle()
    os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed reads it once, at its first import
    requests = connection.makefile("r")
    while os.getppid() == parent:
        readable, _, _ = select.select([connection, wakeup], [], [], LOOK_FOR_PARENT_S)
        if wakeup in readable:
            wakeup.recv(4096)
            for pid, status in _ended():
                _send(connection, {"pid": pid, "status": status})
        if connection in readable:
            line = requests.readline()
            if not line:
                return
            _send(connection, {"pid": _fork(json.loads(line), [connection, wakeup, signalled])})


def import_all(modules: Iterable[str]) -> None:
    """Import modules where that is possible; the rank that needs one raises the error of its import."""
    missing = [module for module in modules if module not in sys.modules]
    for module in missing:
        with suppress(Exception):
            importlib.import_module(module)
    if missing:
        gc.collect()
        gc.freeze()  # a collection in a forked process then leaves the pages shared


def _ended() -> Iterator[tuple[int, int]]:
    """Yield the processes that have ended, with their exit status, negative for a signal."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            yield ended[0], os.waitstatus_to_exitcode(ended[1])


def _send(connection: socket.socket, message: dict[str, int]) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # the next read says so
        connection.sendall(json.dumps(message).encode() + b"\n")


def _fork(request: dict[str, Any], sockets: list[socket.socket]) -> int:
    """Return the id of a new process that runs the request."""
    import_all(request["imports"])
    if pid := os.fork():
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for each in sockets:
            each.close()
        status = _run(**request)
    finally:
        os._exit(status)


def _run(command: list[str], environment: dict[str, str], folder: str, log: str, imports: list[str]) -> int:  # noqa: ARG001
    """Run ``python -m`` of ``command`` here, as a process of its own session; returns its exit status."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.path[0] = folder
        sys.argv = command
        setproctitle(shlex.join([sys.executable, "-m", *command]))
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return _status(end.code)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _status(code: object) -> int:
    """Return the exit status of SystemExit's code, as the interpreter does; a text is printed."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # no rank outlives this process (worker.die_with_parent)
