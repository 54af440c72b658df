"""`python -m tests.containers.hosts`: train on two hosts as docs/several-hosts.md says, lose one, go on with the other.

Needs root, iproute2 and openssh-server. The hosts are two network namespaces of this machine, joined by a cable (veth),
each with an address, a name and an sshd of its own; the disk is the storage that they share. The link is cut in the
middle of a stage, and everything on the second host is killed; a run on the first alone goes on from the checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.containers.shell import ROOT, run, say

HOSTS = {"node-1": "10.89.77.1", "node-2": "10.89.77.2"}
ETC = Path("/etc/netns")
KILLED_STAGE, KILLED_AFTER = "grounding", 20
STEPS = 60
NAMES = "[node-1, node-2]"
WAITS_FOR_SSH = "for _ in $(seq 60); do ssh -o BatchMode=yes node-2 hostname && exit; sleep 1; done; exit 1"
PATIENCE_S = 7200.0
SETTINGS = {
    "evaluation.methods": "[stage-2]",
    "grounding.steps": str(STEPS),
    "runtime.checkpoint_every": "10",
    "runtime.launcher": "torchrun",
}


def namespace(host: str) -> str:
    """The network namespace that is a host."""
    return f"mirage-{host}"


def in_host(host: str, *command: str) -> list[str]:
    """The command as it runs on a host: in its network, under its name, with its /etc/hosts and /etc/ssh."""
    named = 'hostname "$0" && exec "$@"'
    return ["ip", "netns", "exec", namespace(host), "unshare", "--uts", "sh", "-c", named, host, *command]


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[None]:
    """Make the namespaces, the cable, and an sshd in each; remove them all afterwards, with what still runs there."""
    daemons: list[subprocess.Popen[bytes]] = []
    assert "mirage-node" not in run(["ip", "netns"]), "another walk runs, or left its namespaces: ip netns del"
    try:
        for host in HOSTS:
            run(["ip", "netns", "add", namespace(host)])
        first, second = HOSTS
        run(
            [
                "ip",
                "link",
                "add",
                "cable",
                "netns",
                namespace(first),
                "type",
                "veth",
                "peer",
                "cable",
                "netns",
                namespace(second),
            ]
        )
        for host, address in HOSTS.items():
            for words in (f"addr add {address}/24 dev cable", "link set cable up", "link set lo up"):
                run(["ip", "-n", namespace(host), *words.split()])
            write_etc(host, folder)
            (Path("/run/sshd")).mkdir(exist_ok=True)
            log = (folder / f"sshd-{host}.log").open("wb")
            daemons.append(
                subprocess.Popen(in_host(host, shutil.which("sshd") or "sshd", "-D", "-e"), stderr=log, stdout=log)
            )
        yield
    finally:
        for host in HOSTS:
            kill_all(host)
            run(["ip", "netns", "del", namespace(host)], check=False)
            shutil.rmtree(ETC / namespace(host), ignore_errors=True)
        for daemon in daemons:
            daemon.wait(timeout=30)


def write_etc(host: str, folder: Path) -> None:
    """What `ip netns exec` puts over /etc on a host: the names of both, and ssh by a key of this walk."""
    ssh = ETC / namespace(host) / "ssh"
    ssh.mkdir(parents=True)
    (ssh.parent / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in HOSTS.items()))
    key = folder / "key"
    if not key.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
    shutil.copy(key.with_suffix(".pub"), ssh / "authorized")
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(ssh / "host_key")])
    (ssh / "sshd_config").write_text(
        f"HostKey /etc/ssh/host_key\nAuthorizedKeysFile /etc/ssh/authorized\nPidFile {folder}/{host}.pid\n"
        "PasswordAuthentication no\nPermitRootLogin yes\nStrictModes no\n"
    )
    known = "UserKnownHostsFile /dev/null\nStrictHostKeyChecking no\n"
    (ssh / "ssh_config").write_text(f"Host *\nIdentityFile {key}\n{known}")


def kill_all(host: str) -> int:
    """SIGKILL everything on a host; how many processes that were."""
    killed = 0
    while pids := run(["ip", "netns", "pids", namespace(host)], check=False).split():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(pid), signal.SIGKILL)
                killed += 1
        time.sleep(0.2)
    return killed


def mirage(folder: Path, store: Path, **runtime: str) -> subprocess.Popen[str]:
    """`mirage run` on the first host, with TMPDIR and the store where both see them."""
    settings = {**SETTINGS, **{f"runtime.{name}": value for name, value in runtime.items()}}
    overrides = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    command = [
        str(Path(sys.executable).parent / "mirage"),
        "run",
        "--recipe",
        "micro",
        "--direct",
        "--store",
        str(store),
    ]
    env = {**os.environ, "TMPDIR": str(folder / "tmp"), "MIRAGE_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    (folder / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        in_host("node-1", *command, *overrides),
        cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], status: int) -> str:
    """Wait for a run to end with a status (1: any that is not 0); what it printed."""
    output = process.communicate(timeout=PATIENCE_S)[0]
    assert min(process.returncode, 1) == status, output[-4000:]
    return output


def lose_the_second_host(folder: Path, process: subprocess.Popen[str]) -> None:
    """Wait for a checkpoint of the stage; then cut the cable and kill all on the second host."""
    deadline = time.monotonic() + PATIENCE_S
    while not any(step >= KILLED_AFTER for step in checkpoints(folder)):
        assert process.poll() is None and time.monotonic() < deadline, "the stage was not reached"
        time.sleep(0.1)
    run(["ip", "-n", namespace("node-2"), "link", "set", "cable", "down"])
    say(f"node-2 is gone: {kill_all('node-2')} processes")


def checkpoints(folder: Path) -> list[int]:
    """The steps of the stage's checkpoints, as its first process reported them."""
    files = (folder / "tmp").glob(f"mirage-{KILLED_STAGE}*/**/rank-0.events.jsonl")
    with contextlib.suppress(FileNotFoundError):
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines() if line.endswith("}")]
        return [line["step"] for line in lines if line["kind"] == "checkpoint"]
    return []


def digest_of_the_stage(store: Path) -> tuple[Path, str]:
    """The model of the stage that is lost, known by its number of steps: its folder and the digest of its content."""
    manifests = {file.parent: json.loads(file.read_text()) for file in (store / "model").glob("*/manifest.json")}
    (folder,) = [folder for folder, manifest in manifests.items() if manifest["summary"].get("steps") == STEPS]
    return folder, str(manifests[folder]["digest"])


def lose_and_resume(folder: Path) -> None:
    """The stage again, from a copy of the store without its model: lose a host, go on with the other, compare."""
    two, lost = folder / "two", folder / "lost"
    shutil.copytree(two, lost)
    shutil.rmtree(digest_of_the_stage(lost)[0])
    say(f"{KILLED_STAGE} again; node-2 is lost in the middle of it")
    process = mirage(folder, lost, hosts=NAMES, processes="1")
    lose_the_second_host(folder, process)
    output = ended(process, 1)
    print(output[-1500:])
    assert "node-2" in output
    say("on node-1 alone, two processes")
    output = ended(mirage(folder, lost, processes="2"), 0)
    print(output[-1500:])
    assert digest_of_the_stage(lost)[1] == digest_of_the_stage(two)[1], "another model than without the loss"
    say("the model is that of the run that lost nobody, bit for bit")


def walk(folder: Path) -> None:
    with two_hosts(folder):
        say("ssh from node-1 to node-2")
        print(run(in_host("node-1", "sh", "-c", WAITS_FOR_SSH)))
        if not (folder / "two").exists():
            say("the whole pipeline on two hosts")
            print(ended(mirage(folder, folder / "two", hosts=NAMES, processes="1"), 0)[-600:])
        lose_and_resume(folder)


def main() -> int:
    """Run `python -m tests.containers.hosts`."""
    folder = Path(tempfile.mkdtemp(prefix="mirage-hosts-"))
    print(f"logs: {folder}")
    walk(folder)
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
