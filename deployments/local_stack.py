"""The local stack: a Prefect server and a process worker in the background, everything they write in .mirage/."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deployments import api, automations, deployed, limits, pools
from deployments.background import BackgroundProcess, StackError, read_pid_file, start, stop, tail, write_pid_file

POOL = "mirage"
DEFAULT_PORT = 4200
HOST = "127.0.0.1"
STUDY_DEPLOYMENTS = ("ablation", "causal", "sweep-k", "sweep-gamma")
"""Studies with a deployment of their own; the first one's deployment runs every other study."""
SLOWER_SERVICES = {
    # Pauses and work-queue clean-up, which nothing here uses, marks of late runs, schedules of a changed deployment:
    # every five seconds by default, on a core that a training may need.
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "30",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "30",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "30",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT15S",
}
"""Settings of the server's services by which an idle server leaves its core to the work."""
Log = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStack:
    """The folders of one checkout's stack: ``repository`` holds prefect.yaml, ``home`` everything the stack writes."""

    repository: Path
    home: Path

    @property
    def server_file(self) -> Path:
        """The server's pid file."""
        return self.home / "stack" / "server.json"

    @property
    def worker_file(self) -> Path:
        """The worker's pid file."""
        return self.home / "stack" / "worker.json"

    def log(self, name: str) -> Path:
        """Return the log file of the server or the worker."""
        return self.home / "logs" / f"{name}.log"


def api_url(stack: LocalStack) -> str | None:
    """Return the API's URL of the running server; None where none runs."""
    server = read_pid_file(stack.server_file)
    return f"http://{HOST}:{server.port}/api" if server else None


def environment(stack: LocalStack, url: str) -> dict[str, str]:
    """Return the environment of a process that uses this stack's server."""
    return {
        **os.environ,
        "MIRAGE_HOME": str(stack.home),
        "PREFECT_HOME": str(stack.home / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # In memory (the default) a restart of the server would forget the lease of the GPU and never free it.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        **SLOWER_SERVICES,
        "PREFECT_CLI_COLORS": "false",
        "PYTHONUNBUFFERED": "1",
    }


def up(stack: LocalStack, *, port: int | None, log: Log, timeout_s: float = 120.0) -> str:
    """Start the server and the worker where they do not run yet; return the API's URL."""
    _check_checkout(stack)
    stack.home.mkdir(parents=True, exist_ok=True)
    url = _server_up(stack, port, log, timeout_s)
    _worker_up(stack, url, log, timeout_s)
    return url


def down(stack: LocalStack, log: Log) -> None:
    """Stop the worker (and the flows it runs), then the server, where they run."""
    for name, path in (("worker", stack.worker_file), ("server", stack.server_file)):
        known = read_pid_file(path)
        if known:
            log(f"stopping the {name} (pid {known.pid})")
            stop(known)
        else:
            log(f"no {name} runs")
        path.unlink(missing_ok=True)


def deploy(stack: LocalStack, url: str, *, store: str, log: Log) -> None:
    """Register every deployment of prefect.yaml with the server at ``url``, unless it has them exactly so.

    ``store`` is the store's root. MIRAGE_WORK_POOL and MIRAGE_IMAGE choose another pool than the local one, and its
    image.
    """
    _check_checkout(stack)
    variables = {**environment(stack, url), "PWD": str(stack.repository), "MIRAGE_STORE": store}
    variables.setdefault("MIRAGE_S3_BLOCK", "")  # prefect.yaml names it
    if deployed.is_current(url, stack.repository, variables):
        log(f"the server has every deployment as it is here (store: {store})")
    else:
        _send_deployments(stack, variables, log)
        deployed.remember(url, stack.repository, variables)
    limits.install(url, log)
    automations.install(url, log)


def _send_deployments(stack: LocalStack, variables: Mapping[str, str], log: Log) -> None:
    """Let `prefect deploy` send every deployment; StackError with its output where it fails."""
    log(f"deploying prefect.yaml (store: {variables['MIRAGE_STORE']})")
    with pools.prefect_file(stack.repository, os.environ) as file:
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        done = subprocess.run(command, env=variables, cwd=stack.repository, capture_output=True, text=True, check=False)
    if done.returncode != 0 or "failed to deploy" in done.stdout.lower():
        output = (done.stdout + done.stderr).strip()[-3000:]
        raise StackError(f"`prefect deploy --all` failed with exit status {done.returncode}; its output:\n{output}")


def status(stack: LocalStack) -> dict[str, Any]:
    """Return the server's and the worker's pid, the API's URL, and whether it answers."""
    server, worker, url = read_pid_file(stack.server_file), read_pid_file(stack.worker_file), api_url(stack)
    return {
        "server": server.pid if server else None,
        "worker": worker.pid if worker else None,
        "api": url,
        "healthy": bool(url) and _healthy(str(url)),
        "home": str(stack.home),
    }


def _server_up(stack: LocalStack, port: int | None, log: Log, timeout_s: float) -> str:
    known = read_pid_file(stack.server_file)
    if known and known.port is not None:
        if port not in (None, known.port):
            raise StackError(
                f"the server runs on port {known.port} already, port {port} was asked for: "
                "stop it first (make down), then start it on the other port"
            )
        log(f"the Prefect server runs: {_ui(known.port)}")
        return _wait_healthy(stack, known, log, timeout_s)
    chosen = _choose_port(port, log)
    url = f"http://{HOST}:{chosen}/api"
    log(f"starting the Prefect server on port {chosen} (log: {stack.log('server')})")
    command = [sys.executable, "-m", "deployments.collecting", "prefect", "server", "start"]
    command += ["--host", HOST, "--port", str(chosen)]
    process = start(command, environment=environment(stack, url), folder=stack.repository, log=stack.log("server"))
    known = write_pid_file(stack.server_file, process, chosen)
    return _wait_healthy(stack, known, log, timeout_s)


def _worker_up(stack: LocalStack, url: str, log: Log, timeout_s: float) -> None:
    known = read_pid_file(stack.worker_file)
    if known:
        log(f"the worker runs (pid {known.pid})")
        return
    log(f"starting the worker (log: {stack.log('worker')})")
    command = [sys.executable, "-m", "prefect", "--no-prompt", "worker", "start", "--pool", POOL, "--type", "process"]
    command += ["--install-policy", "never"]
    process = start(command, environment=environment(stack, url), folder=stack.repository, log=stack.log("worker"))
    known = write_pid_file(stack.worker_file, process)
    _wait("the worker", known, stack, lambda: _pool_ready(url), log, timeout_s)
    log("the worker is ready")


def _wait_healthy(stack: LocalStack, known: BackgroundProcess, log: Log, timeout_s: float) -> str:
    url = f"http://{HOST}:{known.port}/api"
    _wait("the server", known, stack, lambda: _healthy(url), log, timeout_s)
    log(f"the Prefect server answers: {_ui(known.port or 0)}")
    return url


def _wait(
    who: str, known: BackgroundProcess, stack: LocalStack, ready: Callable[[], bool], log: Log, timeout_s: float
) -> None:
    """Poll until ``ready``; log every five seconds that it still waits."""
    started = logged = time.monotonic()
    name = who.removeprefix("the ")
    path = stack.server_file if name == "server" else stack.worker_file
    while not ready():
        now = time.monotonic()
        if read_pid_file(path) is None:
            raise StackError(
                f"{who} (pid {known.pid}) ended while it started; the end of {stack.log(name)}:\n"
                f"{tail(stack.log(name))}"
            )
        if now - started > timeout_s:
            raise StackError(
                f"{who} did not answer within {timeout_s:.0f} s; see {stack.log(name)}, then `make down` and `make up`"
            )
        if now - logged >= 5:
            logged = now
            log(f"  waiting for {who}: {now - started:.0f} s (a fresh data base takes about 30 s)")
        time.sleep(0.3)


def _choose_port(requested: int | None, log: Log) -> int:
    if requested is not None:
        if not _free(requested):
            raise StackError(
                f"port {requested} is taken by another process: free it, or choose another (make up PORT=...)"
            )
        return requested
    if _free(DEFAULT_PORT):
        return DEFAULT_PORT
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        chosen = int(probe.getsockname()[1])
    log(f"port {DEFAULT_PORT} is taken by something else: using {chosen} (make up PORT=... chooses)")
    return chosen


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).json() is True
    except (httpx.HTTPError, ValueError):
        return False


def _pool_ready(url: str) -> bool:
    """Whether a worker of the pool has reported to the server."""
    try:
        with api.client(url, timeout_s=5) as client:
            answer = client.post(f"/work_pools/{POOL}/workers/filter", json={})
        return answer.status_code == 200 and any(worker["status"] == "ONLINE" for worker in answer.json())
    except (httpx.HTTPError, ValueError, KeyError):
        return False


def _ui(port: int) -> str:
    return f"http://{HOST}:{port}"


def _check_checkout(stack: LocalStack) -> None:
    if not (stack.repository / "prefect.yaml").is_file():
        raise StackError(
            f"{stack.repository} holds no prefect.yaml: the local stack works from a checkout of the repository; "
            "clone it and run make setup there, or use --direct"
        )
