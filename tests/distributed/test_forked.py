"""Processes forked from a server: as a start of their own, and none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mirage_core.distributed import forked
from mirage_core.distributed.forked import ForkedProcess, ForkServer, start_forked
from mirage_core.errors import TrainingProcessDied

ROOT = Path(__file__).parents[2]
CHILD = """
import json, os, signal, sys
command = sys.argv[1]
if command == "say":
    print("out"); print("err", file=sys.stderr)
    print(json.dumps([os.environ.get("MIRAGE_WORD"), os.getcwd(), __name__, "decimal" in sys.modules]))
elif command == "raise": raise ValueError("what went wrong")
elif command == "exit": sys.exit(int(sys.argv[2]))
elif command == "words": sys.exit("a last word")
elif command == "kill": os.kill(os.getpid(), signal.SIGKILL)
elif command == "sleep":
    from mirage_core.distributed.worker import die_with_parent
    die_with_parent(int(sys.argv[-1])); print("begun", flush=True); signal.pause()
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    (tmp_path / "forked_child.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setattr(forked, "_server", None)
    yield
    assert forked._server is not None
    forked._server.close()


def run(folder: Path, *command: str, imports: tuple[str, ...] = ()) -> tuple[int, str]:
    status = start_forked(["forked_child", *command], folder / "log", imports).wait(30)
    return status, (folder / "log").read_text()


def begun(folder: Path) -> ForkedProcess:
    process = start_forked(["forked_child", "sleep"], folder / "log", ())
    deadline = time.monotonic() + 30
    (folder / "log").touch()
    while "begun" not in (folder / "log").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


@pytest.mark.usefixtures("server")
def test_a_process_has_the_environment_folder_log_and_imports_of_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for word, imports in (("first", ()), ("second", ("decimal", "no_such_module"))):
        monkeypatch.setenv("MIRAGE_WORD", word)
        (tmp_path / word).mkdir()
        monkeypatch.chdir(tmp_path / word)
        status, log = run(tmp_path, "say", imports=imports)
        assert status == 0
        assert "out\n" in log and "err\n" in log
        assert f'["{word}", "{tmp_path / word}", "__main__", {"true" if imports else "false"}]' in log


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("command", "status", "text"),
    [
        (("raise",), 1, "ValueError: what went wrong"),
        (("exit", "7"), 7, ""),
        (("words",), 1, "a last word"),
        (("kill",), -signal.SIGKILL, ""),
    ],
)
def test_exit_statuses_and_tracebacks_are_those_of_the_interpreter(
    tmp_path: Path, command: tuple[str, ...], status: int, text: str
) -> None:
    found, log = run(tmp_path, *command)
    plain = subprocess.run(
        [sys.executable, "-m", "forked_child", *command], capture_output=True, text=True, check=False
    )
    assert found == plain.returncode == status
    assert text in log and text in plain.stderr


@pytest.mark.usefixtures("server")
def test_one_server_serves_until_the_environment_of_its_imports_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = []
    for name, value in (("MIRAGE_WORD", "other"), ("HF_HOME", "elsewhere"), ("HF_HOME", "elsewhere")):
        monkeypatch.setenv(name, value)
        assert run(tmp_path, "say")[0] == 0
        assert forked._server is not None
        pids.append(forked._server.pid)
    assert len(set(pids)) == 2 and pids[1] == pids[2]
    assert not psutil.pid_exists(pids[0])


@pytest.mark.usefixtures("server")
def test_a_process_that_runs_outlives_a_change_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, first = begun(tmp_path), forked._server
    assert first is not None
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("HF_HOME", "elsewhere")
    assert run(tmp_path / "other", "exit", "5")[0] == 5
    assert forked._server is not first
    assert process.poll() is None
    first.close()
    psutil.wait_procs([psutil.Process(process.pid)] if psutil.pid_exists(process.pid) else [], timeout=30)
    assert not psutil.pid_exists(process.pid)


@pytest.mark.usefixtures("server")
def test_a_process_is_listed_by_its_own_command_and_keeps_the_environment_it_is_known_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_MARK", "of the caller")
    process = psutil.Process(begun(tmp_path).pid)
    assert "-m forked_child sleep" in " ".join(process.cmdline())
    assert process.environ()["A_MARK"] == "of the caller"


@pytest.mark.usefixtures("server")
def test_a_killed_server_takes_its_processes_along_and_the_next_start_has_a_new_one(tmp_path: Path) -> None:
    process, server = begun(tmp_path), forked._server
    assert server is not None and process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    os.kill(server.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    psutil.wait_procs([psutil.Process(process.pid)] if psutil.pid_exists(process.pid) else [], timeout=30)
    assert not psutil.pid_exists(process.pid)
    with pytest.raises(TrainingProcessDied, match="run again: a new one is started"):
        server.start(["forked_child", "say"], tmp_path / "log", ())
    assert run(tmp_path, "exit", "3")[0] == 3


def test_nothing_is_left_when_the_starting_process_is_killed(tmp_path: Path) -> None:
    (tmp_path / "forked_child.py").write_text(CHILD)
    code = (
        "import os, signal; from pathlib import Path; from mirage_core.distributed import forked\n"
        f"process = forked.start_forked(['forked_child', 'sleep'], Path({str(tmp_path / 'log')!r}), ())\n"
        "print(process.pid, forked._server.pid, flush=True); signal.pause()"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert starter.stdout is not None
    pids = [int(word) for word in starter.stdout.readline().split()]
    assert len(pids) == 2
    starter.kill()
    starter.wait()
    deadline = time.monotonic() + 30
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(psutil.pid_exists, pids))


def test_no_process_is_forked_beside_a_gpu_or_on_another_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([]))
    monkeypatch.setattr(sys, "platform", "linux")
    assert forked.can_fork()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not forked.can_fork()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([Path("/dev/nvidia0")]))
    assert not forked.can_fork()


def test_a_server_is_of_no_use_to_a_process_that_was_forked_from_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    server = ForkServer()
    assert server.usable
    monkeypatch.setattr(server, "parent", -1)
    assert not server.usable
    monkeypatch.undo()
    server.close()
    assert not server.usable
