"""The flows on a real Prefect server when things break: damage, faults, time-outs, two runs and one GPU."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from deployments import automations, limits
from deployments.api import client
from deployments.background import StackError
from flows import heartbeat
from mirage_core.errors import StageTimeout
from mirage_core.pipeline.run_record import RunRecord, newest_record
from mirage_core.pipeline.stage import StageContext
from tasks import gpu
from tasks.paths import open_store, store_url
from tests.flows.fake_pipeline import FakePipeline

# A group of their own: they wait for much, and the other tests of flows need not wait for them.
pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.xdist_group("prefect-faults")]

ZOMBIES = "mirage: runs without a heartbeat are Crashed"
# The shortest pipeline with stages that run a model: problems, auxiliary-images, base, evaluation, report.
SHORTEST = "evaluation.methods=[zero-shot]"
MODELS = ("base", "evaluation/zero-shot")


def run(*overrides: str) -> RunRecord:
    from flows.full_pipeline import mirage

    mirage(recipe="micro", overrides=[SHORTEST, *overrides])
    return newest_record(open_store())


def run_two_at_once(*seeds: int) -> None:
    from flows.full_pipeline import mirage

    flows = [
        threading.Thread(target=mirage, kwargs={"recipe": "micro", "overrides": [SHORTEST, f"seed={seed}"]})
        for seed in seeds
    ]
    for flow in flows:
        flow.start()
    for flow in flows:
        flow.join(timeout=240)


def api() -> str:
    from prefect.settings import PREFECT_API_URL

    return str(PREFECT_API_URL.value())


def ask(method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
    """The server's answer; a server whose data base is locked for a moment (503) is asked again."""
    with client(api()) as server:
        return server.request(method, f"/{path}", json=body)


def get(path: str) -> Any:
    return ask("GET", path).raise_for_status().json()


def flip(kind: str) -> None:
    """Change one bit of an artifact of that kind."""
    file = next(path for path in Path(store_url()).glob(f"{kind}/*/files-*/*") if path.is_file())
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)


def test_an_artifact_damaged_in_mid_run_is_made_again_in_the_same_run(fake_pipeline: FakePipeline) -> None:
    fake_pipeline.during["base"] = lambda context: flip("problems")
    record = run("seed=101")

    assert fake_pipeline.ran == ["problems", "auxiliary-images", "base", "problems", "evaluation/zero-shot", "report"]
    assert record.state == "Completed"
    assert {stage.state for stage in record.stages} == {"Completed"}
    assert "problems/" in record.faults[0]
    assert record.flow_run is not None
    store = open_store()
    assert [store.verify(artifact) for artifact in store.list()] == [[]] * len(store.list())


def test_a_single_stage_heals_what_it_needs(fake_pipeline: FakePipeline) -> None:
    from flows.single_stage import single_stage

    single_stage(stage="auxiliary-images", recipe="micro", overrides=["seed=102"])
    flip("problems")
    flip("auxiliary-images")
    fake_pipeline.ran.clear()
    examples = single_stage(stage="examples", recipe="micro", overrides=["seed=102"])

    assert examples.kind == "examples"
    assert fake_pipeline.ran == ["problems", "auxiliary-images", "examples"]


def test_a_network_fault_is_tried_again_and_a_refusal_is_not(fake_pipeline: FakePipeline) -> None:
    request = httpx.Request("POST", "http://server/api")
    away = httpx.HTTPStatusError("503", request=request, response=httpx.Response(503, request=request))
    wrong = httpx.HTTPStatusError("422", request=request, response=httpx.Response(422, request=request))
    fake_pipeline.faults["problems"] = [ConnectionResetError(), httpx.ConnectError("no route"), away, wrong]
    with pytest.raises(httpx.HTTPStatusError, match="422"):
        run("seed=103")
    assert fake_pipeline.ran == ["problems"] * 4


def test_a_stage_has_its_own_time_out_and_it_is_no_reason_to_try_again(fake_pipeline: FakePipeline) -> None:
    fake_pipeline.during["problems"] = lambda context: time.sleep(60)
    with pytest.raises(StageTimeout, match=r"problems did not finish within 1 s.*runtime\.timeouts\.problems"):
        run("seed=104", "runtime.timeouts={problems: 1}")
    assert fake_pipeline.ran == ["problems"]


def test_a_living_run_marked_crashed_is_set_back(fake_pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.runtime import flow_run

    monkeypatch.setattr(heartbeat, "CHECK_INTERVAL_S", 0.2)

    def declared_dead(context: StageContext) -> None:
        run_id = flow_run.id
        state = {"type": "CRASHED", "name": "Crashed", "message": "No heartbeat"}
        post(f"flow_runs/{run_id}/set_state", {"state": state, "force": True})
        until(lambda: get(f"flow_runs/{run_id}")["state"]["type"] == "RUNNING")

    fake_pipeline.during["problems"] = declared_dead
    record = run("seed=108")
    history = sorted(get(f"flow_run_states/?flow_run_id={record.flow_run}"), key=lambda state: state["timestamp"])
    assert [state["type"] for state in history][-3:] == ["CRASHED", "RUNNING", "COMPLETED"]
    assert record.state == "Completed"
    assert get(f"flow_runs/{record.flow_run}")["state"]["type"] == "COMPLETED"


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One for each time that somebody asked for the GPU and did not get it."""
    times: list[str] = []
    real = gpu._acquire

    def noted(client: Any) -> Any:
        lease = real(client)
        times.extend([] if lease else ["refused"])
        return lease

    monkeypatch.setattr(gpu, "_acquire", noted)
    monkeypatch.setattr(gpu, "POLL_S", 0.2)
    return times


def test_stages_with_a_model_never_overlap_in_two_runs_at_once(fake_pipeline: FakePipeline, refused: list[str]) -> None:
    at_work, worked = threading.Lock(), []
    overlaps: list[str] = []

    def alone(context: StageContext) -> None:
        if not at_work.acquire(blocking=False):
            overlaps.append(context.fingerprint)
            return
        try:
            until(lambda: bool(refused or overlaps))  # until the other run has come along
            worked.append(context.fingerprint)
        finally:
            at_work.release()

    fake_pipeline.during.update(dict.fromkeys(MODELS, alone))
    run_two_at_once(105, 106)

    assert (overlaps, len(worked)) == ([], 4)
    assert get("v2/concurrency_limits/gpu")["active_slots"] == 0


def test_a_stage_the_other_run_made_while_this_one_waited_is_cached(
    fake_pipeline: FakePipeline, refused: list[str]
) -> None:
    fake_pipeline.during["base"] = lambda context: until(lambda: bool(refused) or fake_pipeline.ran.count("base") > 1)
    run_two_at_once(107, 107)

    assert refused
    assert sorted(name for name in fake_pipeline.ran if name in MODELS) == list(MODELS)


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not reached() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_a_slot_that_the_server_gave_away_ends_the_work_by_a_transient_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is gone (as after a long absence of the server) and somebody else has the slot."""
    monkeypatch.setattr(gpu, "RENEW_S", 0.1)
    slot = gpu.GpuSlot(logging.getLogger("test"))
    taken = ask("POST", "v2/concurrency_limits/", {"name": "gpu", "limit": 1})
    assert taken.status_code in (201, 409)
    with slot.acquired():
        slot.check()
        monkeypatch.setattr(gpu, "_acquire", lambda client: None)
        limit = get("v2/concurrency_limits/gpu")
        assert limit["active_slots"] == 1
        monkeypatch.setattr(gpu.SyncPrefectClient, "renew_concurrency_lease", gone)
        until(slot._lost.is_set)
        with pytest.raises(gpu.GpuSlotLost) as caught:
            slot.check()
    assert caught.value.transient
    assert get("v2/concurrency_limits/gpu")["active_slots"] == 0


def gone(*_: Any, **__: Any) -> None:
    request = httpx.Request("POST", "http://server/api")
    raise httpx.HTTPStatusError("410", request=request, response=httpx.Response(410, request=request))


def test_stages_of_one_run_share_its_slot_and_another_run_waits_for_the_last_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "POLL_S", 0.05)
    log, began = logging.getLogger("test"), threading.Event()
    ask("POST", "v2/concurrency_limits/", {"name": "gpu", "limit": 1})

    def other_run() -> None:
        with gpu.SharedGpuSlot("another", log).acquired():
            began.set()

    waiting = threading.Thread(target=other_run)
    with gpu.SharedGpuSlot("run", log).acquired():
        with gpu.SharedGpuSlot("run", log).acquired():
            assert get("v2/concurrency_limits/gpu")["active_slots"] == 1
            waiting.start()
        assert not began.wait(0.5)
    assert began.wait(60)
    waiting.join(60)
    assert get("v2/concurrency_limits/gpu")["active_slots"] == 0


def test_a_stage_takes_a_new_slot_where_the_one_of_its_run_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "RENEW_S", 0.1)
    log = logging.getLogger("test")
    real, renew = gpu._acquire, gpu.SyncPrefectClient.renew_concurrency_lease
    first, second = gpu.SharedGpuSlot("run", log), gpu.SharedGpuSlot("run", log)
    with first.acquired():
        monkeypatch.setattr(gpu, "_acquire", lambda client: None)
        monkeypatch.setattr(gpu.SyncPrefectClient, "renew_concurrency_lease", gone)
        until(lambda: first._slot is not None and first._slot.is_lost)
        monkeypatch.setattr(gpu, "_acquire", real)
        monkeypatch.setattr(gpu.SyncPrefectClient, "renew_concurrency_lease", renew)
        with second.acquired():
            second.check()
            with pytest.raises(gpu.GpuSlotLost):
                first.check()
    assert get("v2/concurrency_limits/gpu")["active_slots"] == 0


def test_a_lost_lease_is_taken_anew_where_nobody_was_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "RENEW_S", 0.1)
    leases: list[Any] = []
    real = gpu._acquire

    def noted(client: Any) -> Any:
        leases.append(real(client) if not leases else uuid4())
        return leases[-1]

    monkeypatch.setattr(gpu, "_acquire", noted)
    slot = gpu.GpuSlot(logging.getLogger("test"))
    with slot.acquired():
        monkeypatch.setattr(gpu.SyncPrefectClient, "renew_concurrency_lease", gone)
        until(lambda: len(leases) >= 3)
        slot.check()
    assert len(leases) >= 3
    ask("POST", "v2/concurrency_limits/decrement", {"names": ["gpu"], "slots": 1})


def test_a_slot_acquired_again_after_the_work_has_ended_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """The renewal's answer is slower than the block's end waits for it."""
    monkeypatch.setattr(gpu, "RENEW_S", 0.1)
    monkeypatch.setattr(gpu, "JOIN_S", 0.1)
    ended, asked = threading.Event(), threading.Event()
    real = gpu._acquire

    def slow(client: Any) -> Any:
        asked.set()
        assert ended.wait(60)
        return real(client)

    with gpu.GpuSlot(logging.getLogger("test")).acquired():
        monkeypatch.setattr(gpu, "_acquire", slow)
        monkeypatch.setattr(gpu.SyncPrefectClient, "renew_concurrency_lease", gone)
        assert asked.wait(60)
    renewer = next(thread for thread in threading.enumerate() if thread.name == "gpu-lease")
    ended.set()
    renewer.join(60)
    assert get("v2/concurrency_limits/gpu")["active_slots"] == 0


def test_the_limit_is_made_once_and_a_changed_one_is_left_alone() -> None:
    lines: list[str] = []
    ask("DELETE", "v2/concurrency_limits/gpu")
    assert [limits.install(api(), lines.append) for _ in range(3)] == [1, 1, 1]
    ask("PATCH", "v2/concurrency_limits/gpu", {"limit": 4}).raise_for_status()
    assert limits.install(api(), lines.append) == 4
    assert "up to 4 stages" in lines[-1]
    ask("PATCH", "v2/concurrency_limits/gpu", {"limit": 1}).raise_for_status()
    assert len([limit for limit in post("v2/concurrency_limits/filter", {}) if limit["name"] == "gpu"]) == 1


def post(path: str, body: dict[str, Any]) -> Any:
    return ask("POST", path, body).raise_for_status().json()


def test_automations_are_installed_once_however_often_and_stay_off_where_switched_off() -> None:
    lines: list[str] = []
    names = automations.install(api(), lines.append)
    assert ZOMBIES in names
    created = {automation["name"]: automation["id"] for automation in post("automations/filter", {})}
    ask("PATCH", f"automations/{created[ZOMBIES]}", {"enabled": False}).raise_for_status()
    for _ in range(2):
        automations.install(api(), lines.append)
    there = [automation for automation in post("automations/filter", {}) if automation["name"] in names]
    assert {automation["name"]: automation["id"] for automation in there} == {name: created[name] for name in names}
    assert len(there) == len(names)
    assert [automation["enabled"] for automation in there if automation["name"] == ZOMBIES] == [False]


def test_doubles_of_an_automation_are_removed() -> None:
    automations.install(api(), lambda line: None)
    by_name = {"automations": {"name": {"any_": [ZOMBIES]}}}
    (there,) = post("automations/filter", by_name)
    double = {key: there[key] for key in ("name", "description", "enabled", "trigger", "actions")}
    post("automations/", double)
    automations.install(api(), lambda line: None)
    assert [automation["id"] for automation in post("automations/filter", by_name)] == [there["id"]]


def test_a_file_that_is_no_automation_is_named(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("name: only a name\n")
    with pytest.raises(StackError, match=r"wrong\.yaml is not an automation"):
        automations.install(api(), lambda line: None, tmp_path)
