"""Start a deployment and follow its run: task states and log lines to a display; on failure, the cause and the way out.

Nothing here imports Prefect: its client costs seconds of a processor before it asks anything.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import httpx

from flows.display.board import StageState
from flows.display.display import Display
from flows.run_api import LogLine, RunApi, RunState, TaskOfRun
from mirage_core.errors import MirageError
from tasks.log_lines import event_of

FIRST_POLLS_S, POLL_S, FIRST_S = 0.5, 3.0, 20.0
"""Between two looks at the server: in the first seconds, when a run that is all cached ends, and later."""
LAST_LINES_S = 1.0
"""The last log lines reach the server a little later than the state."""
SLOW_START_S = 45.0
AWAY_S = 120.0
"""How long the server may be away before watching ends."""
MAX_ERROR_LINES = 6
_WARNING = 30
# Prefect's own log lines, which repeat the task states.
_STATE_LINES = (
    "Finished in state ", "Created task run ", "Beginning flow run ", "View at ", "Worker '", "Flow run '",
    "Running 1 deployment pull step", "Executing deployment step", "Deployment step ", "All deployment steps ",
)  # fmt: skip
# What a stage says of itself, which its task's state says too.
_STAGE_LINES = re.compile(r"(started|cached|done in [\d.]+ s): [\w.-]+/\w+")
_ENDED: dict[str, StageState] = {"COMPLETED": "done", "FAILED": "failed", "CRASHED": "failed", "CANCELLED": "failed"}


class RunFailed(MirageError):
    """A watched run ended in another state than Completed."""


def start_and_watch(
    server: str, deployment: str, *, parameters: Mapping[str, Any], environment: Mapping[str, str], display: Display
) -> None:
    """Start a run of a deployment of ``server`` (the API's URL) and follow it to its end.

    RunFailed names the stage, the cause and the way out.
    """
    with RunApi(server) as api:
        target = api.deployment(deployment)
        if target is None:
            raise RunFailed(f"the server has no deployment {deployment}: register it with `mirage deploy`")
        # The env of a run replaces that of its deployment.
        env = {**(target.get("job_variables") or {}).get("env", {}), **environment}
        run = api.start(target["id"], parameters, {"env": env})
        display.say(f"started {deployment}: {api.page(run)}", "bold")
        try:
            with display:
                _RunMonitor(api, run, display).follow()
        except KeyboardInterrupt:
            display.say(
                f"no longer watching; the run goes on at {api.page(run)}. "
                f"To stop it: press Cancel there, or: prefect flow-run cancel {run}",
                "yellow",
            )
            raise


class _RunMonitor:
    """Follows a run, and remembers what was shown of it."""

    def __init__(self, api: RunApi, run: str, display: Display) -> None:
        self._api, self._run, self._display = api, run, display
        self._lines = 0
        self._states: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._flow_state = ""
        self._warned = False
        self._answered = time.monotonic()

    def follow(self) -> None:
        """Return when the run is completed; RunFailed where it ended otherwise."""
        started = time.monotonic()
        while (ended := self._look()) is None:
            passed = time.monotonic() - started
            if not self._warned and not self._flow_started and passed > SLOW_START_S:
                self._warned = True
                self._display.say("the run has not started yet: is a worker running? See `mirage status`", "yellow")
            time.sleep(FIRST_POLLS_S if passed < FIRST_S else POLL_S)
        time.sleep(LAST_LINES_S)
        self._show_news()
        if ended.type != "COMPLETED":
            raise RunFailed(self._failure(ended))

    def _look(self) -> RunState | None:
        """Show the news; return the run's state where it has ended. A server that is away is waited for."""
        try:
            self._name, state, self._flow_started = self._api.run(self._run)
            self._show_news()
        except httpx.HTTPError as error:
            away = time.monotonic() - self._answered
            self._display.log(f"the Prefect server does not answer ({type(error).__name__}): asked again")
            if away > AWAY_S:
                raise RunFailed(
                    f"the Prefect server has not answered for {away:.0f} s: {error}. The run may go on: see "
                    f"`mirage status` and {self._api.page(self._run)}"
                ) from error
            return None
        self._answered = time.monotonic()
        if state.name != self._flow_state:
            self._flow_state = state.name
            self._display.log(f"run {self._name}: {state.name}")
        return state if state.final else None

    def _show_news(self) -> None:
        tasks = self._api.tasks(self._run)
        self._names.update({task.id: task.name for task in tasks})
        for task in tasks:
            if task.state.type == "RUNNING" and task.id not in self._states:
                self._show_state(task)
        self._show_log()
        for task in tasks:
            if self._states.get(task.id) != task.state.name:
                self._show_state(task)

    def _show_state(self, task: TaskOfRun) -> None:
        if task.state.name == "Pending":
            return
        self._states[task.id] = task.state.name
        if task.state.name == "Cached":
            self._display.end(task.id, task.name, "cached")
        elif task.state.type in _ENDED:
            self._display.end(task.id, task.name, _ENDED[task.state.type], task.seconds)
        elif task.state.type == "RUNNING":
            self._display.begin(task.id, task.name)
        else:
            self._display.log(f"{task.name}: {task.state.name}")

    def _show_log(self) -> None:
        while lines := self._api.log(self._run, self._lines):
            self._lines += len(lines)
            for line in lines:
                if not line.message.startswith(_STATE_LINES):
                    self._show_line(line)

    def _show_line(self, line: LogLine) -> None:
        name = self._names.get(line.task or "", "")
        if line.level >= _WARNING:
            at = datetime.fromisoformat(line.time).astimezone()
            self._display.say(f"  {at:%H:%M:%S} {line.message}", "red" if line.level > _WARNING else "yellow")
        elif name and line.message.startswith(f"{name} "):
            event = event_of(name, line.message)
            if not _STAGE_LINES.fullmatch(event.message):
                self._display.take(line.task, event)
        else:
            self._display.log(line.message)

    def _failure(self, ended: RunState) -> str:
        failed = [task for task in self._api.tasks(self._run) if task.state.failed]
        lines = [f"the run {self._name} ended {ended.name}"]
        lines += [f"  stage {task.name} {task.state.name}: {_message(task.state)}" for task in failed]
        if not failed:
            lines.append(f"  {_message(ended)}")
        lines.append(
            f"See {self._api.page(self._run)}; after removing the cause, press Retry there, or run the same "
            "command again: finished stages are Cached, training resumes from its last checkpoint"
        )
        return "\n".join(lines)


def _message(state: RunState) -> str:
    message = (state.message or "no message").removeprefix("Task run encountered an exception ")
    lines = message.removeprefix("Flow run encountered an exception: ").strip().splitlines()
    return "\n".join([*lines[:MAX_ERROR_LINES], "(the rest is in the log)"] if len(lines) > MAX_ERROR_LINES else lines)
