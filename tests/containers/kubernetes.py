"""`python -m tests.containers.kubernetes`: the ten commands of docs/from-laptop-to-cluster.md on a real control plane.

Needs root, podman, kubectl 1.24 or later, the images of docker/verify.sh and the programs of
tests/containers/control-plane.sh. There is no registry, no GPU and no kubelet: the image is here, the run asks for less
than the template's defaults, and podman runs the pods that the cluster makes (node.py). The Prefect server and the S3
server run beside the cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.containers.cluster import cluster
from tests.containers.engine import enter_namespace
from tests.containers.node import PODMAN, Node, set_limits
from tests.containers.shell import ROOT, run, say
from tests.containers.stack import Stack

GUIDE = ROOT / "docs" / "from-laptop-to-cluster.md"
IMAGE = "registry.example.org/mirage:gpu"
SMALL = {
    "gpus": "0",
    "cpu_request": "250m",
    "memory_request": "1Gi",
    "memory_limit": "6Gi",
    "image_pull_policy": "Never",
    "stream_output": "false",
}
OVERRIDES = ["evaluation.methods=[stage-2]"]


def guide() -> list[str]:
    """The ten commands of the guide."""
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "kubectl create namespace" in block]
    lines = [line for line in block.splitlines() if line]
    assert len(lines) == 10, lines
    return lines


def adapted(command: str) -> str:
    """A command of the guide for this cluster: no engine, no registry, the CPU image, a small run."""
    if command.startswith("docker build"):
        return " ".join([*PODMAN, "tag", "localhost/mirage:cpu", IMAGE])
    if command.startswith("docker push"):
        return " ".join([*PODMAN, "image", "exists", IMAGE])
    if command.startswith("prefect deployment run"):
        small = " ".join(f"--job-variable {name}={value}" for name, value in SMALL.items())
        return f"{command} --params '{json.dumps({'recipe': 'micro', 'overrides': OVERRIDES})}' {small}"
    return command.removesuffix(" &")


@contextlib.contextmanager
def servers(folder: Path, mark: str, password: str) -> Iterator[None]:
    """A Prefect server with a password, and the S3 server, in the network of this process."""
    keys = {"accessKey": f"{mark}a", "secretKey": f"{mark}s"}
    identity = {"name": "mirage", "actions": ["Admin", "Read", "Write", "List", "Tagging"], "credentials": [keys]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    detached = [*PODMAN, "run", "--rm", "--detach", "--network", "host"]
    s3 = ["-v", f"{folder}/s3.json:/s3.json:ro", "docker.io/chrislusf/seaweedfs:4.43", "server", "-ip=127.0.0.1"]
    server = ["-e", f"PREFECT_SERVER_API_AUTH_STRING={password}", "localhost/mirage:cpu", "prefect", "server", "start"]
    started = [run([*detached, *s3, "-s3", "-s3.config=/s3.json"]), run([*detached, *server])]
    try:
        wait_for("http://127.0.0.1:4200/api/health")
        wait_for("http://127.0.0.1:8333/healthz")
        yield
    finally:
        for container in started:
            run([*PODMAN, "rm", "--force", container.split()[-1]], check=False)


def wait_for(url: str) -> None:
    """Wait until a server answers well."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, trust_env=False).is_success:
                return
        time.sleep(1.0)
    raise AssertionError(f"no answer: {url}")


def environment(folder: Path, kubeconfig: Path, mark: str, password: str) -> dict[str, str]:
    """What the guide's commands need in their shell; the files of the two secrets are written into ``folder``."""
    keys = {
        "AWS_ACCESS_KEY_ID": f"{mark}a",
        "AWS_SECRET_ACCESS_KEY": f"{mark}s",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:8333",
    }
    login = {"PREFECT_API_AUTH_STRING": password}
    (folder / "s3.env").write_text("".join(f"{name}={value}\n" for name, value in keys.items()))
    (folder / "prefect.env").write_text("".join(f"{name}={value}\n" for name, value in login.items()))
    ours = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KUBECONFIG": str(kubeconfig),
        "MIRAGE_STORE": "s3://mirage/store",
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": "http://127.0.0.1:4200/api",
        "AWS_DEFAULT_REGION": "us-east-1",
        "PREFECT_WORKER_WEBSERVER_PORT": "8090",  # 8080 is the S3 server's here
    }
    return {**os.environ, **ours, **keys, **login}


def execute(command: str, folder: Path, env: Mapping[str, str]) -> str:
    """One command of the guide, in the checkout; its secrets' files are in ``folder``."""
    line = re.sub(r"--from-env-file=", f"--from-env-file={folder}/", command)
    done = subprocess.run(["bash", "-euc", line], cwd=ROOT, env=dict(env), text=True, timeout=2400, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout


def check_container(container: dict[str, Any]) -> None:
    """The pod's container, as podman made it of what the cluster asked for."""
    host = container["HostConfig"]
    assert container["Config"]["User"] == "10001:10001"
    assert not container["EffectiveCaps"] and not host["Privileged"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert host["Memory"] == 6 * 1024**3
    assert {"/data", "/dev/shm"} <= {mount["Destination"] for mount in container["Mounts"]}


def walk(folder: Path) -> None:
    mark = f"canary{secrets.token_hex(8)}"
    set_limits(folder)
    stack = Stack(folder / "unused", mark, f"admin:{mark}p")
    with servers(folder, mark, stack.login), cluster(folder) as kubeconfig:
        env = environment(folder, kubeconfig, mark, stack.login)
        worker: subprocess.Popen[bytes] | None = None
        *before, start_worker, run_it = map(adapted, guide())
        try:
            for command in before:
                say(command)
                print(execute(command, folder, env)[-1200:], flush=True)
            say(start_worker)
            with (folder / "worker.log").open("wb") as log:
                worker = subprocess.Popen(
                    ["bash", "-c", f"exec {start_worker}"], cwd=ROOT, env=env, stdout=log, stderr=log
                )
            with Node(folder, kubeconfig) as node:
                first = run_in_a_pod(run_it, folder, env, stack)
                assert set(first.values()) == {"Completed"}, first
                again = run_in_a_pod(run_it, folder, env, stack)
                assert set(again.values()) == {"Cached"} and again.keys() == first.keys(), again
                print(node.kubectl("get", "jobs,pods"))
                for container in node.played:
                    check_container(container)
                assert len(node.played) == 2
                said = "".join(node.logs) + (folder / "worker.log").read_text() + str(stack.everything_said())
            assert mark not in said, "a secret stands in a log"
            say("the ten commands work")
        finally:
            if worker is not None:
                worker.kill()  # it would wait for its runs
                worker.wait(timeout=60)


def run_in_a_pod(command: str, folder: Path, env: Mapping[str, str], stack: Stack) -> dict[str, str]:
    """The guide's last command, which ends with the run; the stages' states."""
    say(command)
    print(execute(command, folder, env)[-600:], flush=True)
    flow_run = stack.newest_run()
    assert stack.ended(flow_run)["type"] == "COMPLETED"
    return stack.stages(flow_run)


def main() -> int:
    """Run `python -m tests.containers.kubernetes`."""
    enter_namespace("tests.containers.kubernetes")
    folder = Path(tempfile.mkdtemp(prefix="mirage-kubernetes-"))
    print(f"logs: {folder}")
    walk(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
