"""The flow's process, the worker, the server and a whole machine die in the middle of stage 2; the run ends well."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.crash.accident import PATIENCE_S, Accident, until

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("crash")]

# "Within seconds": the worker looks every half a second; the rest is a machine under load.
SECONDS = 30.0


def test_the_flows_process_is_killed_and_retry_goes_on_from_the_checkpoint(accident: Accident) -> None:
    accident.start("relaxation.learning_rate=0.0021")
    accident.reach_a_checkpoint()
    os.kill(accident.flow_process().pid, signal.SIGKILL)
    accident.wait_until_no_process_is_left(SECONDS)

    accident.end("CRASHED")
    began = time.monotonic()
    accident.retry_to_completion()
    assert accident.resumed_after() and accident.resumed_after()[0] >= 40
    accident.assert_all_is_well()
    assert [attempt.state for attempt in accident.records()[-1].attempts] == ["Crashed"]
    print(f"from Retry to Completed: {time.monotonic() - began:.0f} s")


def test_the_worker_is_killed_alone_and_the_run_can_be_retried(accident: Accident) -> None:
    accident.start("relaxation.learning_rate=0.0022")
    accident.reach_a_checkpoint()
    accident.live.kill_worker(with_flows=False)
    try:
        # The flow's process may go on to its end or notice: both are good, as long as nothing is lost.
        accident.live.until(lambda: accident.live.state(accident.flow_run)["type"] != "RUNNING", "an end", PATIENCE_S)
    finally:
        accident.live.restart_worker()
    accident.wait_until_no_process_is_left(SECONDS)
    if accident.live.state(accident.flow_run)["type"] != "COMPLETED":
        accident.retry_to_completion()
    accident.assert_all_is_well()


def test_worker_and_flow_are_killed_and_the_zombie_is_found_by_its_missing_heartbeat(accident: Accident) -> None:
    accident.start("relaxation.learning_rate=0.0023")
    accident.reach_a_checkpoint()
    accident.live.kill_worker(with_flows=True)
    accident.wait_until_no_process_is_left(SECONDS)
    assert accident.live.state(accident.flow_run)["type"] == "RUNNING", "nobody is left who could say otherwise"
    began = time.monotonic()
    accident.end("CRASHED")
    print(f"a zombie was found after {time.monotonic() - began:.0f} s")
    assert "No heartbeat" in accident.live.state(accident.flow_run)["message"]

    accident.live.restart_worker()
    accident.retry_to_completion()
    assert accident.resumed_after() and accident.resumed_after()[0] >= 40
    accident.assert_all_is_well()


@pytest.mark.parametrize("away_s", [20, 130])
def test_the_server_is_killed_in_mid_run_and_comes_back(accident: Accident, away_s: int) -> None:
    """Also after longer than a missing heartbeat takes to be noticed, and than the lease of the GPU lasts."""
    accident.start(f"relaxation.learning_rate={0.0024 + away_s / 1e7}", f"relaxation.steps={240 + 12 * away_s}")
    accident.reach_a_checkpoint()
    accident.live.kill_server()
    steps = accident.checkpoints()
    assert steps > 0 and accident.ranks(), "training does not need the server"
    time.sleep(away_s)  # how long it is away is the accident itself
    accident.live.restart_server()

    # After a long absence the server takes the run for dead, until the run says that it lives.
    state = lambda: accident.live.state(accident.flow_run)["type"]  # noqa: E731
    accident.live.until(lambda: state() == "COMPLETED", "a good end without anybody's help", PATIENCE_S)
    assert accident.resumed_after() == [], "nothing had to be done again"
    accident.assert_all_is_well()
    names = [run["name"] for run in accident.live.task_runs(accident.flow_run)]
    assert len(names) == len(set(names)), "each stage once"


def test_cancel_from_the_ui_ends_the_training_processes_within_seconds(accident: Accident) -> None:
    accident.start("relaxation.learning_rate=0.0025")
    accident.reach_a_checkpoint()
    flow = accident.flow_process()
    accident.live.cancel(accident.flow_run)
    seconds = accident.wait_until_no_process_is_left(SECONDS)
    print(f"cancelled: no training process after {seconds:.1f} s")
    accident.end("CANCELLED")
    until(lambda: not flow.is_running() or flow.status() == "zombie", "the flow's process is gone")
    accident.live.until(lambda: accident.live.get("v2/concurrency_limits/gpu")["active_slots"] == 0, "a free GPU", 60)
    assert accident.checkpoints() > 0, "the work is not lost"
    assert accident.records()[-1].state == "Cancelled"

    again = Accident(accident.live, accident.store, finished=accident.finished)
    again.start("relaxation.learning_rate=0.0025")
    again.end("COMPLETED")
    assert again.resumed_after() and again.resumed_after()[0] >= 40
    again.assert_all_is_well()
