"""Start a deployment and follow its run: print task states and log lines; on failure, the cause and the way out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, LogFilter, LogFilterFlowRunId, LogFilterLevel
from prefect.client.schemas.objects import FlowRun, Log, TaskRun
from prefect.client.schemas.sorting import LogSort, TaskRunSort
from prefect.exceptions import ObjectNotFound

from mirage_core.errors import MirageError

POLL_S = 1.0
SLOW_START_S = 45.0
MAX_ERROR_LINES = 6
_INFO = 20
# Prefect's own log lines, which repeat the task states.
_STATE_LINES = (
    "Finished in state ", "Created task run ", "Beginning flow run ", "View at ", "Worker '", "Flow run '",
    "Running 1 deployment pull step", "Executing deployment step", "Deployment step ", "All deployment steps ",
)  # fmt: skip


class RunFailed(MirageError):
    """A watched run ended in another state than Completed."""


class PrintLine(Protocol):
    """Prints a line, with an optional style."""

    def __call__(self, line: str, style: str | None = None) -> None: ...


def start_and_watch(
    deployment: str, *, parameters: Mapping[str, Any], environment: Mapping[str, str], log: PrintLine
) -> FlowRun:
    """Start a run of a deployment and follow it to its end; RunFailed names the stage, the cause and the way out."""
    with get_client(sync_client=True) as client:
        try:
            target = client.read_deployment_by_name(deployment)
        except ObjectNotFound as error:
            raise RunFailed(f"the server has no deployment {deployment}: register it with `mirage deploy`") from error
        # The env of a run replaces that of its deployment.
        env = {**(target.job_variables or {}).get("env", {}), **environment}
        started = client.create_flow_run_from_deployment(
            target.id, parameters=dict(parameters), job_variables={"env": env}
        )
        log(f"started {deployment}: {page_of(client, started.id)}", "bold")
        try:
            return _RunMonitor(client, started.id, log).follow()
        except KeyboardInterrupt:
            log(
                f"no longer watching; the run goes on at {page_of(client, started.id)}. "
                f"To stop it: press Cancel there, or: prefect flow-run cancel {started.id}",
                "yellow",
            )
            raise


def page_of(client: SyncPrefectClient, run: UUID) -> str:
    """Return the URL of the run's page in Prefect's UI."""
    return f"{str(client.api_url).rstrip('/').removesuffix('/api')}/runs/flow-run/{run}"


class _RunMonitor:
    """Follows a run, and remembers what was printed of it."""

    def __init__(self, client: SyncPrefectClient, run: UUID, log: PrintLine) -> None:
        self._client = client
        self._run = run
        self._log = log
        self._logs = 0
        self._states: dict[UUID, str] = {}
        self._flow_state = ""
        self._warned = False

    def follow(self) -> FlowRun:
        started = time.monotonic()
        while True:
            run = self._client.read_flow_run(self._run)
            self._print(run)
            if run.state is not None and run.state.is_final():
                break
            if run.start_time is None and time.monotonic() - started > SLOW_START_S:
                self._warn_slow_start()
            time.sleep(POLL_S)
        time.sleep(2 * POLL_S)  # the last log lines reach the server a little later than the state
        self._print(run)
        if run.state is None or not run.state.is_completed():
            raise RunFailed(self._failure(run))
        return run

    def _print(self, run: FlowRun) -> None:
        self._print_logs()
        for task in self._tasks():
            if task.state_name not in (None, "Pending", self._states.get(task.id)):
                self._states[task.id] = task.state_name
                self._log(*_task_line(task))
        if run.state_name and run.state_name != self._flow_state:
            self._flow_state = run.state_name
            self._log(f"run {run.name}: {run.state_name}", "bold")

    def _print_logs(self) -> None:
        log_filter = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self._run]), level=LogFilterLevel(ge_=_INFO))
        while True:
            lines = self._client.read_logs(log_filter, limit=200, offset=self._logs, sort=LogSort.TIMESTAMP_ASC)
            self._logs += len(lines)
            for line in lines:
                if not line.message.startswith(_STATE_LINES):
                    self._log(*_log_line(line))
            if len(lines) < 200:
                return

    def _tasks(self) -> list[TaskRun]:
        run_filter = FlowRunFilter(id=FlowRunFilterId(any_=[self._run]))
        return self._client.read_task_runs(flow_run_filter=run_filter, sort=TaskRunSort.EXPECTED_START_TIME_ASC)

    def _warn_slow_start(self) -> None:
        if not self._warned:
            self._warned = True
            self._log("the run has not started yet: is a worker running? See `mirage status`", "yellow")

    def _failure(self, run: FlowRun) -> str:
        failed = [task for task in self._tasks() if task.state and (task.state.is_failed() or task.state.is_crashed())]
        lines = [f"the run {run.name} ended {run.state_name}"]
        lines += [f"  stage {task.name} {task.state_name}: {_message(task.state)}" for task in failed]
        if not failed:
            lines.append(f"  {_message(run.state)}")
        lines.append(
            f"See {page_of(self._client, self._run)}; after removing the cause, press Retry there, or run the same "
            "command again: finished stages are Cached, training resumes from its last checkpoint"
        )
        return "\n".join(lines)


def _task_line(task: TaskRun) -> tuple[str, str | None]:
    style = {"Completed": "green", "Cached": "cyan", "Failed": "red", "Crashed": "red"}.get(task.state_name or "")
    seconds = task.total_run_time.total_seconds() if task.state and task.state.is_final() else 0.0
    duration = f" {seconds:.1f} s" if task.state_name == "Completed" else ""
    return f"  {task.name}: {task.state_name}{duration}", style


def _log_line(line: Log) -> tuple[str, str | None]:
    style = "red" if line.level >= 40 else "yellow" if line.level >= 30 else None
    return f"  {line.timestamp.astimezone():%H:%M:%S} {line.message}", style


def _message(state: Any) -> str:
    message = str(state.message or "no message") if state is not None else "no state"
    message = message.removeprefix("Task run encountered an exception ").removeprefix(
        "Flow run encountered an exception: "
    )
    lines = message.strip().splitlines()
    return "\n".join([*lines[:MAX_ERROR_LINES], "(the rest is in the log)"] if len(lines) > MAX_ERROR_LINES else lines)
