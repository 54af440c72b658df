"""`python -m tests.containers.kubernetes`: the ten commands of docs/from-laptop-to-cluster.md on a real cluster.

Needs root, dockerd, kubectl, the images of docker/verify.sh and the programs of tests/containers/control-plane.sh. The
cluster has one node without a GPU and no registry: the image is on the node, and the run asks for less than the
template's defaults. The Prefect server and the S3 server run beside the cluster.
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
from tests.containers.engine import docker_engine, enter_namespace, load_images
from tests.containers.shell import ROOT, run, say

GUIDE = ROOT / "docs" / "from-laptop-to-cluster.md"
HOST = "172.17.0.1"  # the engine's bridge: where pods find this machine
IMAGE = "registry.example.org/mirage:gpu"
SMALL = {
    "gpus": "0",
    "cpu_request": "250m",
    "memory_request": "1Gi",
    "memory_limit": "6Gi",
    "image_pull_policy": "Never",
}
OVERRIDES = ["evaluation.methods=[stage-2]"]


def guide() -> list[str]:
    """The ten commands of the guide."""
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "kubectl create namespace" in block]
    return [line for line in block.splitlines() if line]


def adapted(command: str) -> str:
    """A command of the guide for this cluster: no registry, the CPU image, a small run."""
    if command.startswith("docker build"):
        return f"docker tag mirage:cpu {IMAGE}"
    if command.startswith("docker push"):
        return f"docker image inspect --format present {IMAGE}"
    if command.startswith("prefect deployment run"):
        small = " ".join(f"--job-variable {name}={value}" for name, value in SMALL.items())
        return f"{command} --params '{json.dumps({'recipe': 'micro', 'overrides': OVERRIDES})}' {small}"
    return command


@contextlib.contextmanager
def servers(mark: str, password: str) -> Iterator[None]:
    """A Prefect server with a password, and the S3 server, in the network of this machine."""
    s3 = {"identities": [{"name": "m", "actions": ["Admin", "Read", "Write", "List"],
                          "credentials": [{"accessKey": f"{mark}a", "secretKey": f"{mark}s"}]}]}  # fmt: skip
    with tempfile.NamedTemporaryFile("w", suffix=".json") as settings:
        settings.write(json.dumps(s3))
        settings.flush()
        detached = ["docker", "run", "--rm", "--detach", "--network", "host"]
        weed = [
            "-v",
            f"{settings.name}:/s3.json:ro",
            "chrislusf/seaweedfs:4.43",
            "server",
            f"-ip={HOST}",
            "-s3",
            "-s3.config=/s3.json",
        ]
        server = [
            "-e",
            f"PREFECT_SERVER_API_AUTH_STRING={password}",
            "mirage:cpu",
            "prefect",
            "server",
            "start",
            "--host",
            "0.0.0.0",
        ]
        started = [run([*detached, "--name", "s3", *weed]), run([*detached, "--name", "server", *server])]
        try:
            wait_for(f"http://{HOST}:4200/api/health")
            wait_for(f"http://{HOST}:8333/healthz")
            yield
        finally:
            for container in started:
                run(["docker", "rm", "--force", container.split()[-1]], check=False)


def wait_for(url: str) -> None:
    """Wait until a server answers well."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, trust_env=False).is_success:
                return
        time.sleep(1.0)
    raise AssertionError(f"no answer: {url}")


def environment(folder: Path, kubeconfig: Path, mark: str, password: str) -> dict[str, str]:
    """What the guide's commands need in their shell."""
    keys = {
        "AWS_ACCESS_KEY_ID": f"{mark}a",
        "AWS_SECRET_ACCESS_KEY": f"{mark}s",
        "AWS_ENDPOINT_URL": f"http://{HOST}:8333",
    }
    login = {"PREFECT_API_AUTH_STRING": password}
    (folder / "s3.env").write_text("".join(f"{name}={value}\n" for name, value in keys.items()))
    (folder / "prefect.env").write_text("".join(f"{name}={value}\n" for name, value in login.items()))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ours = {
        "PATH": path,
        "KUBECONFIG": str(kubeconfig),
        "MIRAGE_STORE": "s3://mirage/store",
        "PREFECT_HOME": str(folder / "prefect"),
    }
    return {
        **os.environ,
        **ours,
        **keys,
        **login,
        "PREFECT_API_URL": f"http://{HOST}:4200/api",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def execute(command: str, folder: Path, env: Mapping[str, str]) -> str:
    """One command of the guide, in the checkout; its secrets' files are in ``folder``."""
    line = re.sub(r"--from-env-file=", f"--from-env-file={folder}/", command)
    done = subprocess.run(["bash", "-euc", line], cwd=ROOT, env=dict(env), text=True, timeout=2400, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout


def check_pod(kubeconfig: Path) -> None:
    """The run's pod as the cluster made it, and its container as the engine did."""
    pods = json.loads(run(["kubectl", "--kubeconfig", str(kubeconfig), "-n", "mirage", "get", "pods", "-o", "json"]))[
        "items"
    ]
    pod = pods[0]
    print(run(["kubectl", "--kubeconfig", str(kubeconfig), "-n", "mirage", "get", "jobs,pods"]))
    assert pod["status"]["phase"] == "Succeeded", pod["status"]
    container_id = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("docker://")
    (container,) = json.loads(run(["docker", "inspect", container_id]))
    host: dict[str, Any] = container["HostConfig"]
    assert container["Config"]["User"] == "10001:10001"
    assert host["CapDrop"] == ["ALL"] and "no-new-privileges" in host["SecurityOpt"][0] and not host["Privileged"]
    assert host["Memory"] == 6 * 1024**3
    assert {"/data", "/dev/shm"} <= {mount["Destination"] for mount in container["Mounts"]}


def walk(folder: Path) -> None:
    mark = f"canary{secrets.token_hex(8)}"
    password = f"admin:{mark}p"
    with docker_engine():
        load_images()
        with servers(mark, password), cluster(folder) as kubeconfig:
            env = environment(folder, kubeconfig, mark, password)
            worker: subprocess.Popen[bytes] | None = None
            try:
                for command in map(adapted, guide()):
                    say(command)
                    if " worker start " in command:
                        with (folder / "worker.log").open("wb") as log:
                            worker = subprocess.Popen(
                                ["bash", "-c", f"exec {command.removesuffix('&')}"],
                                cwd=ROOT,
                                env=env,
                                stdout=log,
                                stderr=log,
                            )
                        continue
                    print(execute(command, folder, env)[-1200:], flush=True)
                check_pod(kubeconfig)
                say("the same run again, in a pod of its own: everything Cached")
                (again,) = [adapted(command) for command in guide() if "deployment run" in command]
                print(execute(again, folder, env)[-1200:])
                logs = execute("kubectl -n mirage logs --tail=200 -l job-name --prefix", folder, env)
                assert "Cached" in logs or "cached" in logs, logs[-2000:]
                assert mark not in logs + (folder / "worker.log").read_text(), "a secret stands in a log"
            finally:
                if worker is not None:
                    worker.terminate()
                    worker.wait(timeout=60)


def main() -> int:
    """Run `python -m tests.containers.kubernetes`."""
    enter_namespace("tests.containers.kubernetes")
    folder = Path(tempfile.mkdtemp(prefix="mirage-kubernetes-"))
    print(f"logs: {folder}")
    walk(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
