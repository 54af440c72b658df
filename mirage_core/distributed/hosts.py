"""A job on one host or several through torchrun or DeepSpeed's launcher: one agent a host, reached by ssh.

The first host is this one. All hosts must see the job's folder, its inputs and its output under the same paths (shared
storage), and have the same Python environment under the same path.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mirage_core.config import RuntimeSettings
from mirage_core.distributed.process_group import Group, log_tail, start_process, stop
from mirage_core.errors import MirageError, SettingsError, TrainingProcessDied

AGENT = "mirage_core.distributed.host_agent"
NOT_SHARED = 3
"""Exit status of an agent that does not see the job's files."""
_UNREACHED, _NO_PYTHON = 255, 127
_LOOPBACK = "127.0.0.1"
FORWARDED = ("NCCL_", "GLOO_", "UCX_", "FI_")
"""Variables that tell the libraries about the network, by their beginnings: other hosts get this one's."""


def start_agents(runtime: RuntimeSettings, worker: str, job_file: Path) -> Group:
    """Start the agent of every host. SettingsError for hosts with the launcher direct."""
    if runtime.launcher == "direct":
        raise SettingsError(
            "runtime.hosts names several machines, which runtime.launcher direct does not reach; set it to torchrun "
            "or deepspeed"
        )
    hosts = runtime.hosts or (_LOOPBACK,)
    folder, processes = job_file.parent, list[subprocess.Popen[bytes]]()
    port = runtime.master_port if len(hosts) > 1 else _free_port()
    logs = tuple(folder / f"host-{number}.log" for number in range(len(hosts)))
    try:
        for number, host in enumerate(hosts):
            command = _agent(runtime, worker, job_file, number, hosts, port)
            there = command if number == 0 else _by_ssh(host, command)
            processes.append(start_process(there, logs[number], listens=True))
    except BaseException:
        stop(Group(folder, runtime.world_size, (), (), tuple(processes), listens=True))
        raise
    names = tuple(f"the launcher on {host}" for host in hosts)
    return Group(folder, runtime.world_size, names, logs, tuple(processes), listens=True)


def trouble(group: Group, runtime: RuntimeSettings) -> MirageError | None:
    """What an agent's exit status alone says of a host; None where it says nothing."""
    hosts = runtime.hosts or (_LOOPBACK,)
    for host, status, log in zip(hosts, group.exits(), group.logs, strict=True):
        if status == NOT_SHARED:
            return SettingsError(f"host {host}: {log_tail(log).strip()}")
        if status == _UNREACHED and host != hosts[0]:
            return TrainingProcessDied(
                f"host {host} of runtime.hosts was not reached by ssh, or was lost: {log_tail(log).strip()}. "
                f"Logging in must work without a password: try `ssh -o BatchMode=yes {host} true`"
            )
        if status == _NO_PYTHON:
            return SettingsError(
                f"host {host} has no {sys.executable}: every host needs the same environment under the same path. "
                f"It said: {log_tail(log).strip()}"
            )
    return None


@dataclass(frozen=True)
class Place:
    """Where a host stands: its number among how many, its processes, and where all of them meet."""

    host: int
    hosts: int
    processes: int
    address: str
    port: int


def launch_command(launcher: str, place: Place, run: list[str], grace_s: int) -> list[str]:
    """How a host's processes are started; ``run``: the worker's module and what it is given."""
    meeting = ["--node_rank", str(place.host), "--master_addr", place.address, "--master_port", str(place.port)]
    if launcher == "torchrun":
        sizes = ["--nnodes", str(place.hosts), "--nproc_per_node", str(place.processes)]
        ending = ["--max_restarts", "0", "--shutdown_timeout", str(grace_s)]
        return [sys.executable, "-m", "torch.distributed.run", *sizes, *meeting, *ending, "-m", *run]
    world = _world_info(place)
    module = ["--module", "--no_local_rank", "--quiet"]
    return [sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world}", *meeting, *module, *run]


def _world_info(place: Place) -> str:
    """Which process numbers each host has, as DeepSpeed's own runner tells its launcher."""
    world = {f"host-{number}": list(range(place.processes)) for number in range(place.hosts)}
    return base64.urlsafe_b64encode(json.dumps(world).encode()).decode()


def _agent(
    runtime: RuntimeSettings, worker: str, job_file: Path, number: int, hosts: tuple[str, ...], port: int
) -> list[str]:
    address = hosts[0].rpartition("@")[2] if len(hosts) > 1 else _LOOPBACK
    return [
        *(sys.executable, "-m", AGENT, str(job_file), "--launcher", runtime.launcher, "--worker", worker),
        *("--host", str(number), "--hosts", str(len(hosts)), "--processes", str(runtime.processes)),
        *("--address", address, "--port", str(port), "--grace", str(runtime.grace_s)),
    ]


def _by_ssh(host: str, command: list[str]) -> list[str]:
    """The same command on another host, in the same folder, with what the libraries must know of the network."""
    known = {name: value for name, value in os.environ.items() if name.startswith(FORWARDED) or name == "PYTHONPATH"}
    told = [f"{name}={value}" for name, value in sorted(known.items())]
    script = f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(['env', *told, *command])}"
    return ["ssh", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4", host, script]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
