"""What a kubelet does, as far as the walk needs it: runs a namespace's pods by podman, and tells the API server."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.containers.engine import FOLDER
from tests.containers.shell import run

STORAGE = ["--root", f"{FOLDER}/containers", "--runroot", f"{FOLDER}/runroot", "--storage-driver", "overlay"]
PODMAN = ["podman", *STORAGE, "--runtime", "runc", "--cgroup-manager", "cgroupfs"]
LIMITS = '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'
"""podman's own are above what a machine without CAP_SYS_RESOURCE allows."""
NAMESPACE = "mirage"
PATIENCE_S = 2400.0


def set_limits(folder: Path) -> None:
    """Make podman, wherever this process starts it, set LIMITS."""
    (folder / "containers.conf").write_text(LIMITS)
    os.environ["CONTAINERS_CONF"] = str(folder / "containers.conf")


@dataclass
class Node:
    """Runs pods one by one, in the network of this process. ``played`` has what podman says of each container."""

    folder: Path
    kubeconfig: Path
    played: list[dict[str, Any]] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Node:
        self._thread = threading.Thread(target=self._play_all)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(PATIENCE_S)

    def kubectl(self, *words: str) -> str:
        """What kubectl printed."""
        return run(["kubectl", "--kubeconfig", str(self.kubeconfig), "-n", NAMESPACE, *words])

    def _play_all(self) -> None:
        while not self._stop.wait(1.0):
            pods = json.loads(self.kubectl("get", "pods", "-o", "json"))["items"]
            for pod in pods:
                if pod["status"]["phase"] == "Pending":
                    self._play(pod)

    def _play(self, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        manifest = self.folder / f"{name}.json"
        manifest.write_text(json.dumps(as_podman_takes_it(pod)))
        self._give_secrets(pod)
        self._report(pod, "Running", {"running": {}})
        try:
            run([*PODMAN, "play", "kube", "--network", "host", "--log-driver", "k8s-file", str(manifest)])
            container = f"{name}-{pod['spec']['containers'][0]['name']}"
            self.played += json.loads(run([*PODMAN, "inspect", container]))
            status = int(run([*PODMAN, "wait", container], timeout_s=PATIENCE_S).split()[-1])
            self.logs.append(run([*PODMAN, "logs", container]))
        finally:
            run([*PODMAN, "pod", "rm", "--force", name], check=False)
        self._report(pod, "Failed" if status else "Succeeded", {"terminated": {"exitCode": status}})

    def _give_secrets(self, pod: dict[str, Any]) -> None:
        """The secrets that the pod's environment names, as podman keeps them: the JSON of their data."""
        env = pod["spec"]["containers"][0]["env"]
        for name in {each["valueFrom"]["secretKeyRef"]["name"] for each in env if "valueFrom" in each}:
            data = self.kubectl("get", "secret", name, "-o", "jsonpath={.data}")
            run([*PODMAN, "secret", "rm", name], check=False)
            run([*PODMAN, "secret", "create", name, "-"], stdin=data)

    def _report(self, pod: dict[str, Any], phase: str, state: dict[str, Any]) -> None:
        """Set the pod's status, and its container's."""
        (container,) = pod["spec"]["containers"]
        status = {"name": container["name"], "state": state, "ready": phase == "Running", "restartCount": 0}
        status |= {"image": container["image"], "imageID": container["image"], "containerID": "podman://walk"}
        body = json.dumps({"status": {"phase": phase, "containerStatuses": [status]}})
        self.kubectl("patch", "pod", pod["metadata"]["name"], "--subresource=status", "--type=merge", "-p", body)


def as_podman_takes_it(pod: dict[str, Any]) -> dict[str, Any]:
    """The pod without the token of its service account, which no kubelet brings here."""
    spec = dict(pod["spec"])
    tokens = {volume["name"] for volume in spec["volumes"] if "secret" in volume}
    spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] not in tokens]
    spec["containers"] = [
        {**each, "volumeMounts": [mount for mount in each["volumeMounts"] if mount["name"] not in tokens]}
        for each in spec["containers"]
    ]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod["metadata"]["name"]}, "spec": spec}
