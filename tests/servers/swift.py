"""A real S3 server on loopback: OpenStack Swift with its S3 API, four processes of the installed `swift` package."""

from __future__ import annotations

import atexit
import getpass
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import pytest

HOST = "127.0.0.1"
REGION = "us-east-1"
STORAGE = ("account", "container", "object")
# Requests come in through the proxy and end at the account: whoever stops the proxy first gets no answer for a write
# that is only half there (an object in no listing, since nobody repairs listings here).
STOP_ORDER = ("proxy", "object", "container", "account")
PATIENCE_S = 120.0
ATTEMPTS = 4

SWIFT_CONF = """
[swift-hash]
swift_hash_path_prefix = mirage
swift_hash_path_suffix = tests
[storage-policy:0]
name = gold
default = yes
"""

COMMON = """
[DEFAULT]
bind_ip = {host}
bind_port = {port}
bind_timeout = 1
workers = 0
user = {user}
swift_dir = {etc}
log_level = INFO
"""

# Time-outs are long: on a busy machine the default second lets an object miss its bucket's listing for ever.
STORAGE_CONF = """
devices = {data}
mount_check = false
fallocate_reserve = 0
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
node_timeout = 60
conn_timeout = 20
container_update_timeout = 60
"""

PROXY_CONF = """
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck listing_formats bulk s3api tempauth copy slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
node_timeout = 120
conn_timeout = 20
error_suppression_limit = 1000000
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = {region}
[filter:tempauth]
use = egg:swift#tempauth
user_mirage_{owner} = {owner_secret} .admin
user_mirage_{guest} = {guest_secret}
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""

RINGS = """
import sys
from swift.common.ring import RingBuilder
host, folder, *ports = sys.argv[1:]
for name, port in (each.split("=") for each in ports):
    builder = RingBuilder(part_power=4, replicas=1, min_part_hours=1)
    builder.add_dev({"region": 1, "zone": 1, "ip": host, "port": int(port), "device": "d1", "weight": 1.0})
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{name}.ring.gz")
"""
"""A program that writes the rings of the kinds of storage: one device each, as swift-ring-builder makes them."""


class SwiftDidNotStart(AssertionError):
    """The S3 server did not come up; the message ends with what its log says."""


class _PortTaken(Exception):
    pass


class SwiftServer:
    """Start in ``folder`` on free ports on entering, stop on leaving; its data stays until the folder goes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Unmistakable, so that a test can look for them where they must not be: name and secret of a user.
        self._users = {user: (f"{user}{_canary()}", _canary()) for user in ("owner", "guest")}
        self._ports: dict[str, int] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://{HOST}:{self._ports['proxy']}"

    def environment(self, user: str = "owner") -> dict[str, str]:
        """What an S3 client of this server needs; ``guest`` is known to the server and may do nothing."""
        name, secret = self._users[user]
        return {
            "AWS_ACCESS_KEY_ID": f"mirage:{name}",
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
        }

    def bucket(self) -> str:
        """A fresh bucket as ``s3://name``."""
        name = f"mirage-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def use(self, monkeypatch: pytest.MonkeyPatch, user: str = "owner") -> None:
        """Make this the S3 of the test's process; s3fs would else go on with the server, or the keys, it knows."""
        import s3fs

        for name, value in self.environment(user).items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()

    def client(self, user: str = "owner") -> Any:
        """A boto3 client."""
        import boto3
        from botocore.config import Config

        name, secret = self._users[user]
        how = Config(s3={"addressing_style": "path"}, connect_timeout=10, read_timeout=120)
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=f"mirage:{name}",
            aws_secret_access_key=secret,
            config=how,
        )

    def __enter__(self) -> Self:
        atexit.register(self.kill)
        for attempt in range(1, ATTEMPTS + 1):
            self._lay_out()
            try:
                self.restart()
            except _PortTaken:
                if attempt == ATTEMPTS:
                    raise SwiftDidNotStart(f"{ATTEMPTS} times somebody else took a port:\n{self.log_tail()}") from None
            else:
                return self
        raise AssertionError("unreachable")

    def __exit__(self, *_: object) -> None:
        self.stop()
        atexit.unregister(self.kill)

    def restart(self) -> None:
        """Stop what runs, and start again on the same ports with the same data."""
        self.stop()
        (self.folder / "log").mkdir(parents=True, exist_ok=True)
        for name in (*STORAGE, "proxy"):
            self._running[name] = self._start(name)
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """End its processes; the data stays."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: open connections break, requests that are under way get no answer; the data stays."""
        self._end(signal.SIGKILL)

    def log_tail(self, lines: int = 12) -> str:
        """The ends of its logs."""
        logs = sorted((self.folder / "log").glob("*.log"))
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) for log in logs
        )

    def _lay_out(self) -> None:
        """Settings and rings, which name the ports, written anew."""
        etc = self.folder / "etc"
        shutil.rmtree(etc, ignore_errors=True)
        etc.mkdir(parents=True)
        (self.folder / "data" / "d1").mkdir(parents=True, exist_ok=True)
        self._ports = dict(zip((*STORAGE, "proxy"), _free_ports(4), strict=True))
        (etc / "swift.conf").write_text(SWIFT_CONF)
        known = {"host": HOST, "user": getpass.getuser(), "etc": etc, "data": self.folder / "data", "region": REGION}
        # The owner may do everything, the guest nothing in the owner's buckets.
        for user, (name, secret) in self._users.items():
            known |= {user: name, f"{user}_secret": secret}
        for name, port in self._ports.items():
            text = COMMON + (PROXY_CONF if name == "proxy" else STORAGE_CONF)
            (etc / f"{name}-server.conf").write_text(text.format(name=name, port=port, **known))
        self._build_rings(etc)

    def _build_rings(self, etc: Path) -> None:
        """All in one process: a program of Swift's for every step of every ring takes seconds, for its imports."""
        ports = [f"{name}={self._ports[name]}" for name in STORAGE]
        command = [sys.executable, "-c", RINGS, HOST, str(etc), *ports]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SwiftDidNotStart(f"the rings were not built: {done.stdout}{done.stderr}")

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        command = [_program_path(f"swift-{name}-server"), str(self.folder / "etc" / f"{name}-server.conf"), "-v"]
        with (self.folder / "log" / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not (all(self._serves(name) for name in self._running) and self._healthy()):
            if time.monotonic() > deadline:
                raise SwiftDidNotStart(f"Swift did not answer on {self.url} in {PATIENCE_S:.0f} s:\n{self.log_tail()}")
            time.sleep(0.1)

    def _serves(self, name: str) -> bool:
        """Whether that process, and not a stranger, listens on its port."""
        process = self._running[name]
        if process.poll() is not None:
            tail = self.log_tail()
            if "Address already in use" in tail or "Could not bind" in tail:
                raise _PortTaken
            raise SwiftDidNotStart(f"swift-{name}-server ended with {process.returncode}:\n{tail}")
        open_ = psutil.Process(process.pid).net_connections("tcp")
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == self._ports[name]
            for connection in open_
        )

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthcheck", timeout=5, trust_env=False).text == "OK"
        except httpx.HTTPError:
            return False

    def _end(self, how: signal.Signals) -> None:
        for name in STOP_ORDER:
            process = self._running.pop(name, None)
            if process is None:
                continue
            process.send_signal(how)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=30)


def _canary() -> str:
    return f"canary{uuid.uuid4().hex}"


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on, below those the system gives to clients: one may be free while the server is down."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    free: list[int] = []
    while len(free) < count:
        port = random.SystemRandom().randrange(12_000, max(low, 13_000))
        if port not in free and not _listening(port):
            free.append(port)
    return free


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((HOST, port)) == 0


def _program_path(name: str) -> str:
    """A program of the `swift` package, beside this Python or on the path."""
    folders = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    program = shutil.which(name, path=folders)
    if program is None:
        raise SwiftDidNotStart(f"no program {name}: pip install -c constraints.txt swift (make setup does)")
    return program


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    """One S3 server for the tests of a process; every test makes its own bucket in it."""
    with SwiftServer(tmp_path_factory.mktemp("swift")) as server:
        yield server
