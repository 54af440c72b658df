"""A Docker engine of the walk's own, in a network of its own, with the images that docker/verify.sh built."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.containers.shell import run, say

FOLDER = Path(os.environ.get("MIRAGE_VERIFY", "/var/tmp/mirage-verify"))  # as docker/verify.sh
IMAGES = {
    "localhost/mirage:cpu": "mirage:cpu",
    "docker.io/library/postgres:17": "postgres:17",
    "docker.io/chrislusf/seaweedfs:4.43": "chrislusf/seaweedfs:4.43",
}
STARTS_WITHIN_S = 120.0
INSIDE = "MIRAGE_CONTAINERS_INSIDE"


def enter_namespace(module: str) -> None:
    """Go on in a network of the walk's own, with a loopback and nothing else: no port is taken, nothing is outside."""
    if os.environ.get(INSIDE) == "yes":
        return
    os.environ |= {INSIDE: "yes", "DOCKER_HOST": f"unix://{FOLDER}/docker.sock"}
    start = 'ip link set lo up && exec "$0" -m "$@"'
    os.execvp("unshare", ["unshare", "--net", "sh", "-c", start, sys.executable, module, *sys.argv[1:]])


@contextlib.contextmanager
def docker_engine() -> Iterator[None]:
    """An engine in this process's network, its data in FOLDER; ends with the block. DOCKER_HOST names it."""
    (FOLDER / "logs").mkdir(parents=True, exist_ok=True)
    with (FOLDER / "logs" / "dockerd.log").open("w") as log:
        places = {"data-root": "docker", "exec-root": "docker-exec", "pidfile": "docker.pid"}
        options = [f"--{name}={FOLDER / place}" for name, place in places.items()]
        daemon = subprocess.Popen(["dockerd", f"--host={os.environ['DOCKER_HOST']}", *options], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + STARTS_WITHIN_S
            while subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
                assert daemon.poll() is None and time.monotonic() < deadline, f"no engine: see {log.name}"
                time.sleep(0.5)
            yield
        finally:
            daemon.terminate()
            daemon.wait(timeout=STARTS_WITHIN_S)


def load_images() -> None:
    """Give the engine the images of docker/verify.sh that it has not, under the names that compose.yaml uses."""
    podman = [
        "podman",
        "--root",
        f"{FOLDER}/containers",
        "--runroot",
        f"{FOLDER}/runroot",
        "--storage-driver",
        "overlay",
    ]
    for built, name in IMAGES.items():
        wanted = run([*podman, "image", "inspect", "--format", "{{.Id}}", built]).strip()
        if wanted not in run(["docker", "image", "ls", "--no-trunc", "--quiet", name]):
            say(f"image {name}")
            run(["sh", "-c", '"$@" | docker load', "sh", *podman, "save", built], timeout_s=3600)
            run(["docker", "tag", f"sha256:{wanted}", name])
