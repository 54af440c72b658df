"""A Kubernetes control plane: Debian's etcd, and the API server and the controllers of control-plane.sh.

The node is played (node.py): no kubelet and no scheduler.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.containers.engine import FOLDER
from tests.containers.shell import run

PROGRAMS = FOLDER / "kubernetes"
STARTS_WITHIN_S = 240.0


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Path]:
    """A control plane that is ready; yields the kubeconfig of its administrator. Ends with the block."""
    kubeconfig = write_files(folder)
    asks = ["kubectl", "--kubeconfig", str(kubeconfig), "get"]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands(folder, kubeconfig):
            with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder))
            if command[0].endswith("apiserver"):
                until([*asks, "--raw", "/readyz"], "ok", started)
        until([*asks, "serviceaccount", "default", "-o", "jsonpath={.secrets}"], "default-token", started)
        yield kubeconfig
    finally:
        for process in reversed(started):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            process.kill()


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
    """The programs in the order in which they start."""
    key = str(folder / "accounts.key")
    return [
        ["/usr/bin/etcd", "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync"],
        [
            str(PROGRAMS / "kube-apiserver"), "--etcd-servers=http://127.0.0.1:2379", f"--cert-dir={folder}/pki",
            f"--token-auth-file={folder}/tokens.csv", "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.0.0.0/24",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://walk", "--bind-address=127.0.0.1", "--advertise-address=10.0.0.1",
        ],
        [
            str(PROGRAMS / "kube-controller-manager"), "--kubeconfig", str(kubeconfig), "--leader-elect=false",
            f"--service-account-private-key-file={key}",
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
