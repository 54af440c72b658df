"""Retry on a run's page: the stage that failed and those after it run, those before it do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.watched import Watched
from tests.browser.window import Window
from tests.servers.stack import ENDED, LiveStack

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("live-stack")]

RECIPE = {"recipe": "micro", "overrides": ["seed=101", "evaluation.methods=[stage-2]"]}
BEFORE = ["problems", "auxiliary-images", "base", "examples", "grounding"]
AFTER = ["relaxation", "evaluation/stage-2", "report"]


def test_retry_on_the_page_of_a_run_that_failed_in_stage_2_runs_stage_2_and_what_follows_and_nothing_else(
    live_stack: LiveStack, window: Window, tmp_path: Path
) -> None:
    watched = Watched(tmp_path)
    run = live_stack.run("mirage/full-pipeline", RECIPE, watched.environment(breaks="relaxation"))
    failed = live_stack.wait(run)
    assert failed["type"] == "FAILED" and not watched.fault.exists()
    assert watched.executed == [*BEFORE, "relaxation"]

    window.open_run(live_stack.ui, run)
    window.press("Retry", confirm="Retry")
    live_stack.until(lambda: ended_anew(live_stack, run, failed["id"]), "the run has ended again")

    assert live_stack.state(run)["type"] == "COMPLETED"
    assert watched.executed == [*BEFORE, "relaxation", *AFTER]
    assert last_states(live_stack, run) == {**dict.fromkeys(BEFORE, "Cached"), **dict.fromkeys(AFTER, "Completed")}
    tasks = window.tab("Task Runs")
    expect(tasks.get_by_text("Cached", exact=True)).to_have_count(len(BEFORE))
    expect(tasks.get_by_text("Failed", exact=True)).to_have_count(1)


def ended_anew(stack: LiveStack, run: str, before: str) -> bool:
    """Whether the run is in a last state that is not the one it had before the click."""
    state = stack.state(run)
    return state["id"] != before and state["type"] in ENDED


def last_states(stack: LiveStack, run: str) -> dict[str, str]:
    """The state of the newest task run of each stage."""
    return {task["name"]: task["state_name"] for task in stack.task_runs(run)}
