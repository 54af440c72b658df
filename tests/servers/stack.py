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
import pytest

from deployments import background, local_stack

ROOT = Path(__file__).parents[2]
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
PATIENCE_S = 300.0


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
        answer = httpx.post(f"{self.api}/{path}", json=dict(body or {}), timeout=30, trust_env=False)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def get(self, path: str) -> Any:
        """A GET from the server's API; the JSON of its answer."""
        answer = httpx.get(f"{self.api}/{path}", timeout=30, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    def run(
        self, deployment: str, parameters: Mapping[str, Any] | None = None, env: Mapping[str, str] | None = None
    ) -> str:
        """Start a deployment (``mirage/full-pipeline``); the id of its flow run. ``env`` joins that of its process."""
        made = self.get(f"deployments/name/{deployment}")
        known = dict(made["job_variables"].get("env") or {})
        body = {"parameters": dict(parameters or {}), "job_variables": {"env": {**known, **(env or {})}}}
        return str(self.post(f"deployments/{made['id']}/create_flow_run", body)["id"])

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

    def task_runs(self, flow_run: str) -> list[dict[str, Any]]:
        """The task runs of a flow run in the order they started, with ``name`` and ``state_name``."""
        found = self.post("task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}})
        return sorted(found, key=lambda run: str(run["start_time"] or run["created"]))

    def logs(self, flow_run: str) -> list[str]:
        """What a flow run and its tasks said."""
        body = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "sort": "TIMESTAMP_ASC", "limit": 200}
        return [str(line["message"]) for line in self.post("logs/filter", body)]


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
        url = local_stack.up(stack, port=free_port(), say=print, timeout_s=PATIENCE_S)
        local_stack.deploy(stack, url, store=store, say=print)
        yield LiveStack(stack, url, store)
    finally:
        local_stack.down(stack, print)


@pytest.fixture(scope="session")
def live_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """One real stack for the tests of a process, its store a local folder."""
    home = tmp_path_factory.mktemp("live-stack")
    with running_stack(home, str(home / "store")) as stack:
        yield stack
