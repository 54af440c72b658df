"""The Prefect server on PostgreSQL, and on the SQLite of one machine: of 500 tasks none is lost, none runs twice."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.local_stack import environment
from tests.servers.postgres import running_postgres
from tests.servers.stack import LiveStack, running_stack

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("postgres")]

COUNT = 500
PAGE = 200  # the most that the server gives at once
PROGRAM = Path(__file__).with_name("many_tasks.py")


@pytest.fixture(scope="module", params=["postgresql", "sqlite"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """The product's own stack, its server on this data base."""
    home = tmp_path_factory.mktemp(request.param)
    with contextlib.ExitStack() as ending, pytest.MonkeyPatch.context() as patch:
        if request.param == "postgresql":
            postgres = ending.enter_context(running_postgres())
            patch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", postgres.url)
        stack = ending.enter_context(running_stack(home, str(home / "store")))
        if request.param == "postgresql":
            assert postgres.ask("select count(*) from deployment") != "0", "the server uses another data base"
        yield stack


def test_of_500_mapped_tasks_none_is_lost_and_none_runs_twice(stack: LiveStack, tmp_path: Path) -> None:
    log = tmp_path / "numbers"
    started = time.monotonic()
    counts = map_tasks(stack, log)
    stack.until(lambda: ended(stack, counts["run"]) >= COUNT, f"the server knows of {COUNT} ended task runs")
    recorded = time.monotonic() - started

    assert Counter(map(int, log.read_text().split())) == Counter(range(COUNT))
    assert counts["total"] == sum(range(COUNT))
    runs = all_task_runs(stack, counts["run"])
    assert Counter(run["state_name"] for run in runs) == {"Completed": COUNT}
    assert len({run["dynamic_key"] for run in runs}) == COUNT
    assert {run["run_count"] for run in runs} == {1}
    assert stack.state(counts["run"])["type"] == "COMPLETED"
    print(f"\n{stack.stack.home.name}: {COUNT} tasks {counts['seconds']} s, with start and records {recorded:.1f} s")


def test_a_stage_of_the_road_runs_on_that_server(stack: LiveStack) -> None:
    run = stack.run("mirage-stage/examples", {"stage": "examples", "recipe": "micro", "overrides": []})

    assert stack.wait(run)["type"] == "COMPLETED", stack.logs(run)
    names = [task["name"] for task in stack.task_runs(run)]
    assert sorted(names) == ["auxiliary-images", "examples", "problems"]


def map_tasks(stack: LiveStack, log: Path) -> dict[str, Any]:
    """Run the program in a process of its own; what it printed."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(COUNT), str(log)],
        env=environment(stack.stack, stack.api),
        cwd=log.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def ended(stack: LiveStack, run: str) -> int:
    """How many task runs of the flow run have come to an end, as far as the server knows."""
    body = {
        "flow_runs": {"id": {"any_": [run]}},
        "task_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]}}},
    }
    return int(stack.post("task_runs/count", body))


def all_task_runs(stack: LiveStack, run: str) -> list[dict[str, Any]]:
    """Every task run of the flow run, page by page."""
    runs: list[dict[str, Any]] = []
    while True:
        body = {"flow_runs": {"id": {"any_": [run]}}, "sort": "ID_DESC", "limit": PAGE, "offset": len(runs)}
        page = stack.post("task_runs/filter", body)
        runs += page
        if len(page) < PAGE:
            return runs
