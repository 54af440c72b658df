"""Start the processes of a job, on this machine or through one agent a host, and end them; their logs and files.

Ranks are started one by one on this machine, forked where no GPU is (forked.py), or by torchrun or DeepSpeed's launcher
on every host of ``runtime.hosts``: host_agent.py runs the launcher there, reached by ssh (the first host is this one).
All hosts must see the job's folder, its inputs and its output under the same paths (shared storage), and have the same
Python environment under one path.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mirage_core.config import RuntimeSettings
from mirage_core.distributed.forked import ForkedProcess, can_fork, start_forked
from mirage_core.errors import MirageError, SettingsError, TrainingProcessDied

AGENT = "mirage_core.distributed.host_agent"
AGENT_EXIT_S = 5.0
"""Seconds an agent gets to end the processes of its host."""
NOT_SHARED = 3
"""Exit status of an agent that does not see the job's files."""
FORWARDED = ("NCCL_", "GLOO_", "UCX_", "FI_", "MIRAGE_METHODS")
"""Prefixes of the network libraries' variables: other hosts get this host's."""
LOG_TAIL_BYTES = 4000
_SSH_FAILED, _NO_PYTHON = 255, 127
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ProcessGroup:
    """The processes started here for a job: its ranks, or with ``uses_agents`` one agent a host that starts them.

    ``names`` are those of ``processes`` in messages, ``logs`` hold their output. An agent ends, with all it has
    started, when its standard input is closed.
    """

    folder: Path
    world_size: int
    names: tuple[str, ...]
    logs: tuple[Path, ...]
    processes: tuple[subprocess.Popen[bytes] | ForkedProcess, ...]
    uses_agents: bool = False

    def exit_statuses(self) -> list[int | None]:
        """Return the exit status of every process; None for one still running."""
        return [process.poll() for process in self.processes]

    def stop(self) -> None:
        """End every process at once; returns when all are gone.

        Ranks get SIGKILL: SIGTERM asks them to finish their step and save.
        """
        if self.uses_agents:
            self._close_agents()
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # gone already (macOS: the second)
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _close_agents(self) -> None:
        """Close the agents' standard input, and give them a moment to end all they have started."""
        for process in self.processes:
            if process.stdin is not None:
                with contextlib.suppress(OSError):  # gone already
                    process.stdin.close()
        deadline = time.monotonic() + AGENT_EXIT_S
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, deadline - time.monotonic()))


@dataclass(frozen=True)
class HostSpec:
    """One host of a job: its index among ``hosts``, its number of processes, and the address where all meet."""

    host: int
    hosts: int
    processes: int
    address: str
    port: int


def start_group(runtime: RuntimeSettings, worker: str, job_file: Path, imports: Sequence[str] = ()) -> ProcessGroup:
    """Start the processes of a job, which run the module ``worker``. SettingsError for hosts with launcher direct.

    ``imports``: modules that forked processes find imported.
    """
    if runtime.launcher != "direct":
        return _start_agents(runtime, worker, job_file)
    if len(runtime.hosts) > 1:
        raise SettingsError(
            "runtime.hosts names several machines, which runtime.launcher direct does not reach; set it to torchrun "
            "or deepspeed"
        )
    return _start_ranks(runtime, worker, job_file, imports)


def _start_ranks(runtime: RuntimeSettings, worker: str, job_file: Path, imports: Sequence[str]) -> ProcessGroup:
    """Start every rank on this machine."""
    ranks = range(runtime.world_size)
    command = [worker, str(job_file), "--world-size", str(runtime.world_size)]
    names = tuple(f"process {rank}" for rank in ranks)
    logs = tuple(job_file.parent / f"rank-{rank}.log" for rank in ranks)
    starts: list[Start] = []
    if can_fork():
        starts = [partial(start_forked, [*command, "--rank", str(rank)], logs[rank], imports) for rank in ranks]
    else:
        python = [sys.executable, "-m", *command, "--parent", str(os.getpid())]
        starts = [partial(_popen, [*python, "--rank", str(rank)], logs[rank], subprocess.DEVNULL) for rank in ranks]
    return _start_all(starts, names, logs, job_file.parent, runtime.world_size, uses_agents=False)


def _start_agents(runtime: RuntimeSettings, worker: str, job_file: Path) -> ProcessGroup:
    """Start the agent of every host: here for the first, by ssh for the others."""
    hosts = runtime.hosts or (_LOOPBACK,)
    address = hosts[0].rpartition("@")[2] if len(hosts) > 1 else _LOOPBACK
    port = runtime.master_port if len(hosts) > 1 else _free_port()
    command = [sys.executable, "-m", AGENT, str(job_file), "--launcher", runtime.launcher, "--worker", worker]
    command += ["--hosts", str(len(hosts)), "--processes", str(runtime.processes)]
    command += ["--address", address, "--port", str(port), "--grace", str(runtime.shutdown_grace_s)]
    agents = [[*command, "--host", str(number)] for number in range(len(hosts))]
    commands = [agent if number == 0 else _by_ssh(hosts[number], agent) for number, agent in enumerate(agents)]
    names = tuple(f"the launcher on {host}" for host in hosts)
    logs = tuple(job_file.parent / f"host-{number}.log" for number in range(len(hosts)))
    starts: list[Start] = [
        partial(_popen, each, log, subprocess.PIPE) for each, log in zip(commands, logs, strict=True)
    ]
    return _start_all(starts, names, logs, job_file.parent, runtime.world_size, uses_agents=True)


Start = Callable[[], "subprocess.Popen[bytes] | ForkedProcess"]


def _popen(command: list[str], log: Path, stdin: int) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own: a signal to its group ends what it has started, and nothing else."""
    with log.open("wb") as output:
        return subprocess.Popen(command, stdin=stdin, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def _start_all(
    starts: Iterable[Start],
    names: tuple[str, ...],
    logs: tuple[Path, ...],
    folder: Path,
    world_size: int,
    *,
    uses_agents: bool,
) -> ProcessGroup:
    """Start all processes, or none: when one cannot be started, end the others."""
    processes: list[subprocess.Popen[bytes] | ForkedProcess] = []
    try:
        processes.extend(start() for start in starts)
    except BaseException:
        ProcessGroup(folder, world_size, (), (), tuple(processes), uses_agents).stop()
        raise
    return ProcessGroup(folder, world_size, names, logs, tuple(processes), uses_agents)


def launch_command(launcher: str, host: HostSpec, run: list[str], shutdown_timeout_s: int) -> list[str]:
    """Return the command that starts a host's processes; ``run``: the worker's module and its arguments."""
    meeting = ["--node_rank", str(host.host), "--master_addr", host.address, "--master_port", str(host.port)]
    if launcher == "torchrun":
        sizes = ["--nnodes", str(host.hosts), "--nproc_per_node", str(host.processes)]
        ending = ["--max_restarts", "0", "--shutdown_timeout", str(shutdown_timeout_s)]
        return [sys.executable, "-m", "torch.distributed.run", *sizes, *meeting, *ending, "-m", *run]
    # The ranks of each host, in the form in which DeepSpeed's own runner passes them to its launcher.
    ranks = {f"host-{number}": list(range(host.processes)) for number in range(host.hosts)}
    world = base64.urlsafe_b64encode(json.dumps(ranks).encode()).decode()
    module = ["--module", "--no_local_rank", "--quiet"]
    return [sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world}", *meeting, *module, *run]


def host_error(group: ProcessGroup, runtime: RuntimeSettings) -> MirageError | None:
    """Return the error that an agent's exit status alone names; None where there is none."""
    hosts = runtime.hosts or (_LOOPBACK,)
    for host, status, log in zip(hosts, group.exit_statuses(), group.logs, strict=True):
        if status == NOT_SHARED:
            return SettingsError(f"host {host}: {log_tail(log).strip()}")
        if status == _SSH_FAILED and host != hosts[0]:
            return TrainingProcessDied(
                f"host {host} of runtime.hosts was not reached by ssh, or was lost: {log_tail(log).strip()}. "
                f"Logging in must work without a password: try `ssh -o BatchMode=yes {host} true`"
            )
        if status == _NO_PYTHON:
            return SettingsError(
                f"host {host} has no {sys.executable}: every host needs the same environment under the same path. "
                f"Its output: {log_tail(log).strip()}"
            )
    return None


def _by_ssh(host: str, command: list[str]) -> list[str]:
    """Return the command that runs another on a host, in the same folder, with the variables its libraries need."""
    forwarded = [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith(FORWARDED) or name == "PYTHONPATH"
    ]
    script = f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(['env', *forwarded, *command])}"
    return ["ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4", host, script]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def events_file(folder: Path, rank: int) -> Path:
    """Return the file of a process's events."""
    return folder / f"rank-{rank}.events.jsonl"


def failure_file(folder: Path, rank: int) -> Path:
    """Return the file of a process's error."""
    return folder / f"rank-{rank}.failure.json"


def stop_file(folder: Path) -> Path:
    """Return the file that asks all processes of a job to save and stop, on this host and on others."""
    return folder / "interrupt"


def log_tail(path: Path) -> str:
    """Return the end of a log; empty when nothing was printed."""
    if not path.exists():
        return ""
    return path.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", errors="replace")
