"""prefect.yaml, the compose file, and the processes of the local stack."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from deployments import background, local_stack
from deployments.background import StackError
from mirage_core.methods import TRAIN_STAGES, get_method
from mirage_core.pipeline.registry import STAGES

ROOT = Path(__file__).parents[2]
PREFECT = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in PREFECT["deployments"]}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_deployment_names_a_flow_that_takes_its_parameters(name: str) -> None:
    from prefect.flows import load_flow_from_entrypoint

    deployment = DEPLOYMENTS[name]
    flow = load_flow_from_entrypoint(str(ROOT / deployment["entrypoint"]))

    flow.validate_parameters(deployment["parameters"])
    assert deployment["work_pool"]["name"] == local_stack.POOL


def test_there_is_one_deployment_a_stage_and_the_pipeline_the_night_and_the_canary() -> None:
    from mirage_core.studies.loading import load_study, names

    stages = {name for name, entry in DEPLOYMENTS.items() if "single_stage" in entry["entrypoint"]}
    methods = {cell.method for name in names() for cell in load_study(name).all_cells()}
    trained = {stage for method in methods for stage in get_method(method).stages}

    assert trained | (set(STAGES) - set(TRAIN_STAGES)) <= stages <= set(STAGES), "what no study trains needs none"
    studies = {"ablation", "causal", "sweep-k", "sweep-gamma", "diagnosis"}
    assert set(DEPLOYMENTS) - stages == {"full-pipeline", "nightly", "canary", *studies}
    assert all(entry["parameters"]["stage"] == name for name, entry in DEPLOYMENTS.items() if name in stages)


def test_a_study_has_a_deployment_of_its_name_that_runs_it() -> None:
    from deployments.local_stack import STUDY_DEPLOYMENTS
    from mirage_core.studies.loading import names

    grids = {name: entry for name, entry in DEPLOYMENTS.items() if entry["entrypoint"] == "flows/study.py:grid_study"}

    assert set(grids) == set(STUDY_DEPLOYMENTS) <= set(names())
    assert all(entry["parameters"]["study"] == name for name, entry in grids.items())


def test_the_night_has_its_hour_and_never_overlaps_itself() -> None:
    night = DEPLOYMENTS["nightly"]

    assert night["schedules"] == [{"slug": "nightly", "cron": "0 2 * * *", "timezone": "Etc/UTC"}]
    assert night["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


def test_the_flows_have_the_names_their_deployments_are_known_by() -> None:
    from flows.canary import mirage_serve
    from flows.full_pipeline import mirage
    from flows.nightly import mirage_evaluation
    from flows.single_stage import single_stage
    from flows.study import grid_study

    assert [mirage.name, mirage_evaluation.name, single_stage.name] == ["mirage", "mirage-evaluation", "mirage-stage"]
    assert (grid_study.name, mirage_serve.name) == ("mirage-study", "mirage-serve")


def test_the_compose_file_holds_no_password_and_its_services_depend_on_services_that_exist() -> None:
    text = (ROOT / "docker" / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]

    assert all(set(service.get("depends_on", {})) <= set(services) for service in services.values())
    for line in text.splitlines():
        if "PASSWORD:" in line or "SECRET" in line:
            assert "${" in line


def test_a_port_that_is_taken_is_refused_with_the_way_out() -> None:
    with socket.socket() as taken:
        taken.bind((local_stack.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"port {port} is taken.*PORT="):
            local_stack._choose_port(port, print)


def test_another_port_is_chosen_when_the_usual_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    with socket.socket() as taken:
        taken.bind((local_stack.HOST, 0))
        taken.listen()
        monkeypatch.setattr(local_stack, "DEFAULT_PORT", taken.getsockname()[1])
        chosen = local_stack._choose_port(None, lines.append)

    assert chosen != local_stack.DEFAULT_PORT
    assert "taken" in lines[0]


def test_a_server_that_ends_while_it_starts_is_told_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_stack, "sys", type("Fake", (), {"executable": "/bin/false"}))
    stack = local_stack.LocalStack(repository=ROOT, home=tmp_path)

    with pytest.raises(StackError, match="ended while it started"):
        local_stack.up(stack, port=None, log=lambda _: None, timeout_s=30)


def test_without_prefect_yaml_the_stack_says_where_it_works(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="no prefect\\.yaml"):
        local_stack.up(local_stack.LocalStack(repository=tmp_path, home=tmp_path), port=None, log=print)


def test_a_background_process_is_recognised_and_stopped_with_its_children(tmp_path: Path) -> None:
    child = "import time; time.sleep(60)"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    process = background.start(
        [sys.executable, "-c", parent], environment={}, folder=tmp_path, log=tmp_path / "log" / "it.log"
    )
    known = background.write_pid_file(tmp_path / "it.json", process)
    children = _children(process)

    assert background.read_pid_file(tmp_path / "it.json") == known
    background.stop(known, timeout_s=3)
    process.wait(timeout=5)
    assert background.read_pid_file(tmp_path / "it.json") is None
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_a_pid_that_was_given_to_another_process_is_not_taken_for_ours(tmp_path: Path) -> None:
    own_process = psutil.Process()
    other = background.BackgroundProcess(pid=own_process.pid, created=own_process.create_time() - 100)

    background.stop(other)
    assert own_process.is_running()


def _children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    for _ in range(100):
        children = psutil.Process(process.pid).children(recursive=True)
        if children:
            return children
        time.sleep(0.05)
    return []
