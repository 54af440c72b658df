"""A real Prefect server and a real worker with every deployment, in a home of their own, and a client for tests."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deployments import background, local_stack

ROOT = Path(__file__).parents[2]
SETTLES_WITHIN_S = 30.0
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
PATIENCE_S = 300.0
BUSY_S = 150.0  # a server on SQLite can be stuck for a minute under load, then says 503


@dataclass(frozen=True)
class LiveStack:
    """A running stack: ``api`` is the server's, ``ui`` its pages, ``store`` the root its deployments were made with."""

    stack: local_stack.LocalStack
    api: str
    store: str

    @property
    def ui(self) -> str:
        """Where a browser finds the server."""
        return self.api.removesuffix("/api")

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """A POST to the server's API; the JSON of its answer."""
        return _answered(
            lambda: httpx.post(f"{self.api}/{path}", json=dict(body or {}), timeout=BUSY_S, trust_env=False)
        )

    def get(self, path: str) -> Any:
        """A GET from the server's API; the JSON of its answer."""
        return _answered(lambda: httpx.get(f"{self.api}/{path}", timeout=BUSY_S, trust_env=False))

    def run(
        self, deployment: str, parameters: Mapping[str, Any] | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """Start a deployment (``mirage/full-pipeline``); the id of its flow run. ``env`` joins that of its process."""
        details = self.get(f"deployments/name/{deployment}")
        known = dict(details["job_variables"].get("env") or {})
        body = {"parameters": dict(parameters or {}), "job_variables": {"env": {**known, **(env or {})}}}
        return str(self.post(f"deployments/{details['id']}/create_flow_run", body)["id"])

    def state(self, flow_run: str) -> dict[str, Any]:
        """The state of a flow run: type, name, message."""
        return dict(self.get(f"flow_runs/{flow_run}")["state"])

    def wait(self, flow_run: str, types: Collection[str] = ENDED, patience_s: float = PATIENCE_S) -> dict[str, Any]:
        """Wait until a flow run is in one of these states; AssertionError says where it stands otherwise."""
        self.until(lambda: self.state(flow_run)["type"] in types, f"run {flow_run} in one of {types}", patience_s)
        return self.state(flow_run)

    def until(self, reached: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
        """Poll until ``reached``; a server that does not answer counts as not yet."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if reached():
                    return
            time.sleep(0.3)
        raise AssertionError(f"not within {patience_s:.0f} s: {what}\n{background.tail(self.stack.log('worker'), 60)}")

    def retry(self, flow_run: str) -> None:
        """Press Retry on a run's page: what the UI sends."""
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
        self.post(f"flow_runs/{flow_run}/set_state", {"state": state, "force": True})

    def cancel(self, flow_run: str) -> None:
        """Press Cancel on a run's page: what the UI sends."""
        state = {"type": "CANCELLING", "name": "Cancelling", "message": "Cancelled from the UI"}
        self.post(f"flow_runs/{flow_run}/set_state", {"state": state})

    def task_runs(self, flow_run: str, including: str = "") -> list[dict[str, Any]]:
        """The task runs of a flow run in the order they started, with ``name`` and ``state_name``.

        The server learns of them by events, a while after the flow run has ended: waits until all have ended too, and
        the one of the name ``including`` is among them.
        """
        body = {"flow_runs": {"id": {"any_": [flow_run]}}}
        runs = self.post("task_runs/filter", body)
        deadline = time.monotonic() + SETTLES_WITHIN_S
        while self.state(flow_run)["type"] in ENDED and time.monotonic() < deadline:
            time.sleep(1.0)
            before, runs = runs, self.post("task_runs/filter", body)
            known = {run["id"] for run in before} == {run["id"] for run in runs}
            known = known and including in {"", *(run["name"] for run in runs)}
            if known and all(run["state_type"] in ENDED for run in runs):
                break
        return sorted(runs, key=lambda run: str(run["start_time"] or run["created"]))

    def logs(self, flow_run: str) -> list[str]:
        """What a flow run and its tasks said."""
        body = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        return [str(line["message"]) for line in self.post("logs/filter", body)]

    # Accidents: nobody is asked first

    def kill_worker(self, *, with_flows: bool) -> list[int]:
        """SIGKILL the worker, alone or with all that it started; the pids that were killed."""
        return _kill(self.stack.worker_file, with_children=with_flows)

    def restart_worker(self) -> None:
        """Start a worker where none runs, and wait for it."""
        local_stack.up(self.stack, port=None, log=print, timeout_s=PATIENCE_S)

    def kill_server(self) -> list[int]:
        """SIGKILL the server; the pids that were killed."""
        return _kill(self.stack.server_file, with_children=True)

    def restart_server(self) -> None:
        """Start the server again on its port and its data, and wait for it."""
        port = int(self.api.rpartition(":")[2].removesuffix("/api"))
        local_stack.up(self.stack, port=port, log=print, timeout_s=PATIENCE_S)


def _kill(known_at: Path, *, with_children: bool) -> list[int]:
    known = background.read_pid_file(known_at)
    if known is None:
        raise AssertionError(f"nothing that {known_at} tells of runs")
    family = [psutil.Process(known.pid)]
    family += family[0].children(recursive=True) if with_children else []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return [process.pid for process in family]


def _answered(ask: Callable[[], httpx.Response]) -> Any:
    """The JSON of an answer; asked again, as Prefect's own client does, while the server says that it is busy."""
    deadline = time.monotonic() + BUSY_S
    while (answer := ask()).status_code == httpx.codes.SERVICE_UNAVAILABLE and time.monotonic() < deadline:
        time.sleep(0.5)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running_stack(home: Path, store: str) -> Iterator[LiveStack]:
    """Server, worker and deployments in ``home``; all stopped afterwards."""
    stack = local_stack.LocalStack(repository=ROOT, home=home)
    try:
        url = local_stack.up(stack, port=free_port(), log=print, timeout_s=PATIENCE_S)
        local_stack.deploy(stack, url, store=store, log=print)
        yield LiveStack(stack, url, store)
    finally:
        local_stack.down(stack, print)


@pytest.fixture(scope="session")
def live_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """One real stack for the tests of a process, its store a local folder."""
    home = tmp_path_factory.mktemp("live-stack")
    with running_stack(home, str(home / "store")) as stack:
        yield stack
