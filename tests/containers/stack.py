"""The stack of docker/compose.yaml, with secrets that are recognised wherever they turn up, and its server's API."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.containers.shell import run

API = "http://127.0.0.1:4200/api"
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
PATIENCE_S = 2400.0


@dataclass(frozen=True)
class Stack:
    """``mark`` begins every secret of ``env_file``; ``login`` is what the server asks for, user:password."""

    env_file: Path
    mark: str
    login: str

    def compose(self, *words: str, timeout_s: float = PATIENCE_S, check: bool = True) -> str:
        """What `docker compose` printed."""
        command = ["docker", "compose", "-f", "docker/compose.yaml", "--env-file", str(self.env_file), *words]
        return run(command, timeout_s=timeout_s, check=check)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """A POST to the server's API; the JSON of its answer."""
        answer = httpx.post(f"{API}/{path}", json=dict(body), auth=self._auth, timeout=60, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    def get(self, path: str) -> Any:
        """A GET from the server's API; the JSON of its answer."""
        answer = httpx.get(f"{API}/{path}", auth=self._auth, timeout=60, trust_env=False)
        answer.raise_for_status()
        return answer.json()

    def start(self, parameters: Mapping[str, Any], env: Mapping[str, str]) -> str:
        """Start mirage/full-pipeline; the id of the flow run. ``env`` joins that of its process."""
        details = self.get("deployments/name/mirage/full-pipeline")
        known = dict(details["job_variables"].get("env") or {})
        body = {"parameters": dict(parameters), "job_variables": {"env": {**known, **env}}}
        return str(self.post(f"deployments/{details['id']}/create_flow_run", body)["id"])

    def ended(self, flow_run: str, other_than: str = "") -> dict[str, Any]:
        """Wait until a run is in a last state, another one than the state of that id; the state."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            state = dict(self.get(f"flow_runs/{flow_run}")["state"])
            if state["type"] in ENDED and state["id"] != other_than:
                return state
            time.sleep(1.0)
        raise AssertionError(f"run {flow_run} did not end within {PATIENCE_S:.0f} s")

    def newest_run(self) -> str:
        """The id of the run of mirage/full-pipeline that was started last."""
        body = {"flows": {"name": {"any_": ["mirage"]}}, "sort": "START_TIME_DESC", "limit": 1}
        return str(self.post("flow_runs/filter", body)[0]["id"])

    def stages(self, flow_run: str) -> dict[str, str]:
        """The state of the newest task run of each stage, once the server has heard of all that ended."""
        body = {"flow_runs": {"id": {"any_": [flow_run]}}}
        deadline = time.monotonic() + 60
        while True:
            tasks = self.post("task_runs/filter", body)
            if (tasks and all(task["state_type"] in ENDED for task in tasks)) or time.monotonic() > deadline:
                break
            time.sleep(1.0)
        return {task["name"]: task["state_name"] for task in sorted(tasks, key=lambda task: str(task["start_time"]))}

    def everything_said(self) -> dict[str, str]:
        """What the server's API tells a person who is logged in, page by page."""
        kinds = (
            "flow_runs",
            "task_runs",
            "logs",
            "deployments",
            "work_pools",
            "artifacts",
            "block_documents",
            "automations",
        )
        return {kind: str(self.post(f"{kind}/filter", {"limit": 200})) for kind in kinds}

    @property
    def _auth(self) -> tuple[str, str]:
        user, _, password = self.login.partition(":")
        return user, password


def new_stack(folder: Path, profiles: Collection[str] = ("cpu",)) -> Stack:
    """A stack with fresh secrets in ``folder``."""
    mark = f"canary{secrets.token_hex(4)}"
    login = f"admin:{mark}{secrets.token_hex(8)}"
    values = {
        name: f"{mark}{secrets.token_hex(8)}"
        for name in ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "MIRAGE_API_KEY")
    }
    values |= {"PREFECT_AUTH": login, "COMPOSE_PROFILES": ",".join(profiles)}
    env_file = folder / "stack.env"
    env_file.touch(mode=0o600)
    env_file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    return Stack(env_file, mark, login)
