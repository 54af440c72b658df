"""Cancel on a run's page, in the middle of training."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator

import psutil
import pytest
from playwright.sync_api import expect

from tests.browser.window import Window
from tests.servers.stack import LiveStack

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("live-stack")]

ENDLESS = {"stage": "base", "recipe": "micro", "overrides": ["seed=102", "model.warmup.steps=1000000"]}
MARK = "MIRAGE_TEST_MARK"


@pytest.fixture
def mark() -> Iterator[str]:
    """What tells the processes of this test's run from all others; none of them outlives a test that failed."""
    folder_id = uuid.uuid4().hex
    yield folder_id
    for process in processes(folder_id):
        process.kill()


def test_cancel_on_the_page_of_a_run_in_the_middle_of_training_leaves_no_process_of_it(
    live_stack: LiveStack, window: Window, mark: str
) -> None:
    run = live_stack.run("mirage-stage/base", ENDLESS, {MARK: mark})
    live_stack.until(lambda: trains(live_stack, run, mark), "steps are trained, in two processes")

    window.open_run(live_stack.ui, run)
    window.press("Cancel", confirm="Confirm")
    state = live_stack.wait(run)

    assert state["type"] == "CANCELLED"
    live_stack.until(lambda: not processes(mark), "no process of the run is left", patience_s=60)
    expect(window.page.get_by_text("Cancelled", exact=True).first).to_be_visible()


def trains(stack: LiveStack, run: str, mark: str) -> bool:
    """Whether both training processes are there and have told of a step."""
    workers = [command for command in processes(mark).values() if "mirage_core.pipeline.worker" in command]
    return len(workers) == 2 and any(re.match(r"base \d+/", line) for line in stack.logs(run))


def processes(mark: str) -> dict[psutil.Process, str]:
    """Every process with the run's mark in its environment, whoever its parent is by now, and its command."""
    commands = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone, or not ours
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                commands[process] = " ".join(process.cmdline())
    return commands
