"""Debian's PostgreSQL as a server of the test's own: a fresh cluster in its own folder, reached by a Unix socket."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from deployments.background import tail

DEBIAN = Path("/usr/lib/postgresql")
ROLE = "mirage"
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Postgres:
    """A running server: ``folder`` holds its data, its log and its socket."""

    folder: Path

    @property
    def url(self) -> str:
        """Its data base as Prefect's PREFECT_API_DATABASE_CONNECTION_URL."""
        return f"postgresql+asyncpg://{ROLE}@/postgres?host={self.folder}"

    def ask(self, query: str) -> str:
        """The answer to a query that gives one value."""
        command = [program("psql"), "-h", str(self.folder), "-U", ROLE, "-d", "postgres", "-tAc", query]
        return _run(command, None).strip()


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A fresh cluster, open to no network; stopped and removed afterwards."""
    owner = unprivileged()
    # Not in pytest's folder: only its owner may enter that, and the server runs as somebody else where we are root.
    folder = Path(tempfile.mkdtemp(prefix="mirage-postgres-"))
    process = None
    try:
        if owner:
            shutil.chown(folder, user=owner)
        data = str(folder / "data")
        # Trust: nobody but its owner (and root) can reach the socket.
        _run([program("initdb"), "-D", data, "-U", ROLE, "--auth=trust", "--encoding=UTF8", "--locale=C"], owner)
        process = _start([program("postgres"), "-D", data, "-k", str(folder), "-c", "listen_addresses="], owner, folder)
        _wait_ready(process, folder)
        yield Postgres(folder)
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # its "fast" shutdown: connections are ended, nothing is waited for
            process.wait(timeout=PATIENCE_S)
        shutil.rmtree(folder, ignore_errors=True)


def program(name: str) -> str:
    """A program of the newest PostgreSQL of this machine; the test fails where there is none."""
    versions = sorted(DEBIAN.glob("*/bin"), key=lambda folder: float(folder.parent.name))
    path = shutil.which(name, path=os.pathsep.join([*map(str, reversed(versions)), os.environ.get("PATH", "")]))
    if path is None:
        pytest.fail(
            f"there is no PostgreSQL here (no {name}): `make e2e` installs it (tests/install-e2e.sh)", pytrace=False
        )
    return path


def unprivileged() -> str | None:
    """Who the server runs as: PostgreSQL refuses root. None stands for the user of the test."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"


def _run(command: Sequence[str], owner: str | None) -> str:
    done = subprocess.run(command, user=owner, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _start(command: Sequence[str], owner: str | None, folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, user=owner, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _wait_ready(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    probe = [program("pg_isready"), "-q", "-h", str(folder), "-U", ROLE]
    while subprocess.run(probe, check=False).returncode != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"PostgreSQL did not start (status {process.poll()}):\n{tail(folder / 'log')}")
        time.sleep(0.1)
