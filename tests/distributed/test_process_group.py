"""Several hosts: torchrun and DeepSpeed's launcher behind a fake ssh, two hosts on the loopback, real TCP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mirage_core.config import Settings
from mirage_core.distributed.context import ProcessContext
from mirage_core.distributed.events import group_error
from mirage_core.distributed.host_agent import missing_paths
from mirage_core.distributed.job import Job, write_job
from mirage_core.distributed.launch import run_job
from mirage_core.distributed.process_group import HostSpec, launch_command
from mirage_core.distributed.worker import process_of
from mirage_core.errors import DataError, InputError, SettingsError, TrainingProcessDied
from tests.distributed.test_launch import JobRecorder, alive, assert_gone

ROOT = Path(__file__).parents[2]
GROUP = "tests.distributed.group_worker"
SSH = """#!/bin/sh
while [ "$1" != other-host ] && [ $# -gt 0 ]; do shift; done
[ $# -gt 0 ] || {{ echo "ssh: Could not resolve hostname" >&2; exit 255; }}
echo "$2" >> {calls}
exec sh -c "$(printf %s "$2" | sed '{change}')"
"""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    write_ssh(tmp_path)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")


def write_ssh(folder: Path, change: str = "") -> None:
    """An ssh that runs its command here, where the host is called other-host; ``change``: of the command, for sed."""
    ssh = folder / "bin" / "ssh"
    ssh.write_text(SSH.format(calls=folder / "calls", change=change))
    ssh.chmod(0o755)


def parent_of(folder: Path, act: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A process that runs a job, and the processes of the job."""
    (folder / "job.json").write_text(job(folder, act).model_dump_json())
    command = [sys.executable, "-c", PARENT, str(folder / "job.json")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    return parent, [int(parent.stdout.readline()) for _ in range(2)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def job(folder: Path, act: str, **runtime: Any) -> Job:
    chosen = {"launcher": "torchrun", "hosts": ["127.0.0.1", "other-host"], "processes": 1, "master_port": free_port()}
    settings = Settings.model_validate({"recipe": "fake", "runtime": {**chosen, **runtime}})
    return Job(
        program="text",
        settings=settings,
        seed=1,
        output=folder / "output",
        scratch=folder / "scratch",
        options={"act": act},
    )


def run(made: Job) -> JobRecorder:
    recorder = JobRecorder()
    run_job(made, progress=recorder.progress, on_checkpoint=recorder.checkpoint, worker=GROUP)
    return recorder


def failed(made: Job, kind: type[Exception]) -> tuple[JobRecorder, str]:
    recorder = JobRecorder()
    with pytest.raises(kind) as caught:
        run_job(made, progress=recorder.progress, on_checkpoint=recorder.checkpoint, worker=GROUP)
    assert type(caught.value) is kind
    assert_gone(recorder.pids())
    return recorder, str(caught.value)


def test_two_hosts_add_up_over_tcp(tmp_path: Path) -> None:
    recorder = run(job(tmp_path, "add"))
    assert sorted((event.step, event.total, event.metrics["sum"]) for event in recorder.events) == [
        (0, 2, 3),
        (1, 2, 3),
    ]
    assert [event.metrics["local_rank"] for event in recorder.events] == [0, 0]
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith(f"cd {ROOT} && exec env ") and "GLOO_SOCKET_IFNAME=lo" in call
    assert recorder.checkpoints == [(1, "whole")]  # complete only with the parts of both
    assert_gone(recorder.pids())


def test_deepspeeds_launcher_does_the_same_and_one_host_needs_no_ssh(tmp_path: Path) -> None:
    recorder = run(job(tmp_path, "add", launcher="deepspeed", hosts=[], processes=2))
    assert [event.metrics["sum"] for event in recorder.events] == [3, 3]
    assert sorted(event.metrics["local_rank"] for event in recorder.events) == [0, 1]
    assert not (tmp_path / "calls").exists()


def test_an_error_on_the_other_host_comes_back_as_its_own_kind(tmp_path: Path) -> None:
    _, message = failed(job(tmp_path, "data-error"), DataError)
    assert message == "row 3 has no image"


def test_processes_that_are_killed_on_a_host_are_transient_and_the_host_is_named() -> None:
    names = ("the launcher on 127.0.0.1", "the launcher on other-host")
    problem = group_error([], [None, 1], "exitcode: -9", names)
    assert isinstance(problem, TrainingProcessDied) and problem.transient
    assert "the launcher on other-host ended with status 1" in str(problem) and "exitcode: -9" in str(problem)


def test_all_hosts_save_when_this_one_is_asked_to_end(tmp_path: Path) -> None:
    parent, pids = parent_of(tmp_path, "save-when-asked")
    os.kill(parent.pid, signal.SIGTERM)
    message, _ = parent.communicate(timeout=90)
    assert message.splitlines() == ["kept 7", "TrainingInterrupted"]
    assert_gone(pids)


def test_nothing_is_left_on_any_host_when_the_parent_is_killed(tmp_path: Path) -> None:
    parent, pids = parent_of(tmp_path, "hang")
    assert parent.stdout is not None and all(alive(pid) for pid in pids)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert_gone(pids, within_s=20)


PARENT = """
import sys
from pathlib import Path
from mirage_core.distributed.job import read_job
from mirage_core.distributed.launch import run_job
try:
    run_job(read_job(Path(sys.argv[1])), progress=lambda event: print(int(event.metrics["pid"]), flush=True),
            on_checkpoint=lambda step, folder: print("kept", step, flush=True), worker="tests.distributed.group_worker")
except Exception as problem:
    print(type(problem).__name__, flush=True)
"""


def test_a_host_that_is_not_reached_is_named_with_the_way_out(tmp_path: Path) -> None:
    _, message = failed(job(tmp_path, "add", hosts=["127.0.0.1", "nowhere"]), TrainingProcessDied)
    for part in ("host nowhere", "Could not resolve hostname", "ssh -o BatchMode=yes nowhere true"):
        assert part in message


def test_a_host_that_does_not_share_the_storage_is_named(tmp_path: Path) -> None:
    write_ssh(tmp_path, change=f"s,{tmp_path}/scratch,/elsewhere,g")
    _, message = failed(job(tmp_path, "add"), SettingsError)
    assert message.startswith("host other-host: the job's folder /elsewhere/") and "TMPDIR" in message


def test_inputs_that_a_host_does_not_see_are_named(tmp_path: Path) -> None:
    made = job(tmp_path, "add").model_copy(update={"inputs": {"model": tmp_path / "gone"}})
    made.output.mkdir()
    made.scratch.mkdir()
    write_job(made, tmp_path / "job.json")
    assert f"{tmp_path / 'gone'} is not seen here" in missing_paths(tmp_path / "job.json")


def test_hosts_are_not_reached_by_starting_processes_directly(tmp_path: Path) -> None:
    _, message = failed(job(tmp_path, "add", launcher="direct"), SettingsError)
    assert "runtime.launcher" in message


def test_a_launcher_is_told_where_all_meet() -> None:
    spec = HostSpec(host=1, hosts=2, processes=4, address="first", port=29500)
    torchrun = " ".join(launch_command("torchrun", spec, ["worker", "job.json"], 300))
    for message in (
        "--nnodes 2",
        "--nproc_per_node 4",
        "--node_rank 1",
        "--master_addr first",
        "--shutdown_timeout 300",
    ):
        assert message in torchrun
    deepspeed = launch_command("deepspeed", spec, ["worker", "job.json"], 300)
    assert deepspeed[1:3] == ["-m", "deepspeed.launcher.launch"] and deepspeed[-2:] == ["worker", "job.json"]


def test_a_process_finds_its_place_in_the_environment_of_torchrun_and_of_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_of(1, 2) == ProcessContext.on_one_host(1, 2)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="start it by torchrun"):
        process_of(None, None)
    slurm = {"SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "8"}
    for name, value in {**slurm, "MASTER_ADDR": "first", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    assert process_of(None, None) == ProcessContext(9, 16, 1, 8)
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert process_of(None, None) == ProcessContext(3, 4, 1, 2)
