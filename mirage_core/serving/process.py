"""``mirage serve`` as a process of its own on this machine: started on a free port, and ended when no longer needed."""

from __future__ import annotations

import selectors
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mirage_core.errors import MirageError

START_S = 300.0
END_S = 60.0
_EXCERPT = 2000


class ServerDied(MirageError):
    """A server's process ended, or did not listen in time."""


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server that listens: its address, with /v1, and the id of its process."""

    url: str
    pid: int


@contextmanager
def server_process(
    command: Sequence[str], log: Path, environment: Mapping[str, str], start_s: float = START_S
) -> Iterator[ServerProcess]:
    """Start ``command``, a ``mirage serve``, and wait until it listens; SIGTERM ends it with the block.

    ``log`` gets what it writes to stderr.

    Raises:
        ServerDied: it ended instead, or did not listen within ``start_s`` seconds; the message has the end of its log.
    """
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, bufsize=0, env=dict(environment)) as process,
    ):
        assert process.stdout is not None
        try:
            line = _first_line(process.stdout, start_s)
            if b" at http://" not in line:
                excerpt = log.read_text(encoding="utf-8", errors="replace")[-_EXCERPT:].strip() or "its log is empty"
                raise ServerDied(f"`mirage serve` ended, or did not listen within {start_s:.0f} s: {excerpt}")
            yield ServerProcess(line.decode().split(" at ")[1].split(",")[0].strip(), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _first_line(stream: IO[bytes], timeout_s: float) -> bytes:
    """What a process writes up to its first line break; less where it ends, or the time runs out, before."""
    line, until = b"", time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not line.endswith(b"\n") and selector.select(max(0.0, until - time.monotonic())):
            byte = stream.read(1)
            if not byte:
                break
            line += byte
    return line
