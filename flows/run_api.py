"""A deployment's run over the Prefect server's HTTP API: Prefect's own client costs seconds of imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx

from deployments import api
from mirage_core.errors import MirageError

INFO = 20
PAGE_LINES = 200
"""Log lines an answer holds at most."""


class ServerError(MirageError):
    """The Prefect server refused a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run's, or a task's, state: ``type`` is one of Prefect's (COMPLETED, ...), ``name`` what people see (Cached)."""

    type: str
    name: str
    message: str

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self.type in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

    @property
    def failed(self) -> bool:
        """Whether it ended by a fault."""
        return self.type in ("FAILED", "CRASHED")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOfRun:
    """One task of a run: a stage. ``seconds`` of all its attempts."""

    id: str
    name: str
    state: RunState
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a run's log; ``level`` as in ``logging``, ``task``: the id of its task, None for the flow itself."""

    time: str
    level: int
    message: str
    task: str | None


class RunApi:
    """The requests of one client; a context manager. httpx.HTTPError where the server is away or fails."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._client = api.client(self._url)

    def __enter__(self) -> RunApi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def deployment(self, name: str) -> dict[str, Any] | None:
        """Return a deployment by ``flow/name``; None where the server has none."""
        answer = self._client.get(f"/deployments/name/{name}")
        return None if answer.status_code == httpx.codes.NOT_FOUND else dict(_json(answer))

    def start(self, deployment: str, parameters: Mapping[str, Any], job_variables: Mapping[str, Any]) -> str:
        """Start a run of a deployment, both by id."""
        body = {"parameters": dict(parameters), "job_variables": dict(job_variables)}
        return str(self._post(f"/deployments/{deployment}/create_flow_run", body)["id"])

    def run(self, run: str) -> tuple[str, RunState, bool]:
        """Return a run's name, its state, and whether its process has started."""
        found = _json(self._client.get(f"/flow_runs/{run}"))
        return found["name"], _state(found), found["start_time"] is not None

    def tasks(self, run: str) -> list[TaskOfRun]:
        """Return the tasks of a run, the first expected first."""
        body = {"flow_runs": {"id": {"any_": [run]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return [
            TaskOfRun(id=task["id"], name=task["name"], state=_state(task), seconds=task["total_run_time"])
            for task in self._post("/task_runs/filter", body)
        ]

    def log(self, run: str, offset: int) -> list[LogLine]:
        """Return the log's lines of level INFO and above after the first ``offset``, at most PAGE_LINES of them."""
        body = {
            "logs": {"flow_run_id": {"any_": [run]}, "level": {"ge_": INFO}},
            "sort": "TIMESTAMP_ASC",
            "offset": offset,
            "limit": PAGE_LINES,
        }
        return [
            LogLine(time=line["timestamp"], level=line["level"], message=line["message"], task=line["task_run_id"])
            for line in self._post("/logs/filter", body)
        ]

    def page(self, run: str) -> str:
        """Return the URL of the run's page in Prefect's UI."""
        return f"{self._url.removesuffix('/api')}/runs/flow-run/{run}"

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        return _json(self._client.post(path, json=dict(body)))


def _json(answer: httpx.Response) -> Any:
    """Return an answer's JSON; httpx.HTTPStatusError for a fault of the server, ServerError for one of the request."""
    if answer.is_server_error:
        answer.raise_for_status()
    if answer.is_error:
        request = answer.request
        raise ServerError(
            f"the Prefect server refused {request.method} {request.url.path}: {answer.status_code} {answer.text[:500]}"
        )
    return answer.json()


def _state(found: Mapping[str, Any]) -> RunState:
    state = found["state"] or {}
    return RunState(
        type=state.get("type") or "PENDING", name=state.get("name") or "Pending", message=state.get("message") or ""
    )
