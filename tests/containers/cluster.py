"""A Kubernetes cluster of one node: the programs of control-plane.sh, Debian's etcd, the walk's engine."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.containers.engine import FOLDER
from tests.containers.shell import run

PROGRAMS = FOLDER / "kubernetes"
STARTS_WITHIN_S = 180.0
PAUSE = "pause:local"
SYSCTLS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")
"""What a kubelet sets on its machine: put back at the end."""


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """A cluster whose one node is ready; yields the kubeconfig of its administrator. Ends with the block."""
    make_pause_image()
    kubeconfig = write_files(folder)
    sysctls = {name: (Path("/proc/sys") / name).read_text() for name in SYSCTLS}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands(folder, kubeconfig):
            with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder))
            if command[0].endswith("apiserver"):
                until(["kubectl", "--kubeconfig", str(kubeconfig), "get", "--raw", "/readyz"], "ok", started)
        until(["kubectl", "--kubeconfig", str(kubeconfig), "get", "nodes", "--no-headers"], " Ready", started)
        yield kubeconfig
    finally:
        for process in reversed(started):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            process.kill()
        for name, value in sysctls.items():
            (Path("/proc/sys") / name).write_text(value)


def make_pause_image() -> None:
    """The image that keeps a pod's namespaces open; anything that sleeps does."""
    name = run(["docker", "create", "postgres:17"]).split()[-1]
    run(["docker", "commit", "--change", 'ENTRYPOINT ["sleep", "infinity"]', name, PAUSE])
    run(["docker", "rm", name])


def write_files(folder: Path) -> Path:
    """The administrator's token and kubeconfig, and the key that signs the tokens of service accounts."""
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
    run(["openssl", "genrsa", "-out", str(folder / "accounts.key"), "2048"])
    kubeconfig = folder / "kubeconfig"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(f"""
apiVersion: v1
kind: Config
clusters: [{{name: walk, cluster: {{server: "https://127.0.0.1:6443", insecure-skip-tls-verify: true}}}}]
users: [{{name: admin, user: {{token: {token}}}}}]
contexts: [{{name: walk, context: {{cluster: walk, user: admin}}}}]
current-context: walk
""")
    return kubeconfig


def commands(folder: Path, kubeconfig: Path) -> list[list[str]]:
    """The cluster's programs in the order in which they start."""
    by_config = ["--kubeconfig", str(kubeconfig)]
    key = str(folder / "accounts.key")
    return [
        ["/usr/bin/etcd", "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync"],
        [
            str(PROGRAMS / "kube-apiserver"), "--etcd-servers=http://127.0.0.1:2379", f"--cert-dir={folder}/pki",
            f"--token-auth-file={folder}/tokens.csv", "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://walk", "--bind-address=127.0.0.1",
        ],
        [
            str(PROGRAMS / "kube-controller-manager"), *by_config, f"--service-account-private-key-file={key}",
            "--use-service-account-credentials=false", "--leader-elect=false",
        ],
        [str(PROGRAMS / "kube-scheduler"), *by_config, "--leader-elect=false"],
        [
            str(PROGRAMS / "kubelet"), *by_config, f"--root-dir={folder}/kubelet", f"--cert-dir={folder}/kubelet/pki",
            f"--docker-endpoint={os.environ['DOCKER_HOST']}", f"--pod-infra-container-image={PAUSE}",
            "--cgroup-driver=cgroupfs", "--cgroups-per-qos=false", "--enforce-node-allocatable=",
            "--fail-swap-on=false",
            "--hostname-override=node-1", "--eviction-hard=memory.available<100Mi", "--authorization-mode=AlwaysAllow",
            "--authentication-token-webhook=false", "--resolv-conf=/dev/null",
        ],
    ]  # fmt: skip


def until(command: list[str], says: str, started: list[subprocess.Popen[bytes]]) -> None:
    """Ask until the answer has those words; AssertionError when a program of the cluster ended, or after minutes."""
    deadline = time.monotonic() + STARTS_WITHIN_S
    while says not in (answer := run(command, check=False)):
        ended = [process.args for process in started if process.poll() is not None]
        assert not ended, f"ended: {ended}"
        assert time.monotonic() < deadline, f"{' '.join(command)}: {answer}"
        time.sleep(1.0)
