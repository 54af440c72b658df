"""The base job templates of the work pools, read by the workers' own classes of the installed packages."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from kubernetes_asyncio.client import ApiClient, Configuration
from prefect.client.schemas.objects import FlowRun
from prefect.utilities.templating import find_placeholders
from prefect.workers.base import BaseWorker
from prefect.workers.process import ProcessWorker
from prefect_docker import DockerWorker
from prefect_kubernetes import KubernetesWorker

from deployments.pools import IMAGE_FOLDER

TEMPLATES = Path(__file__).parents[2] / "deployments" / "templates"
WORKERS: dict[str, type[BaseWorker]] = {  # type: ignore[type-arg]
    "process": ProcessWorker,
    "docker": DockerWorker,
    "kubernetes": KubernetesWorker,
}


def template(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((TEMPLATES / f"{name}.json").read_text())
    return loaded


def configuration(name: str, **values: Any) -> Any:
    """What a worker makes of the template and a deployment's variables, made ready for a flow run."""
    filled = WORKERS[name].job_configuration.from_template_and_values(template(name), values, client=object())
    ready = asyncio.run(filled)
    ready.prepare_for_flow_run(FlowRun(id=uuid4(), name="careful-otter", flow_id=uuid4()))
    return ready


def container(name: str = "kubernetes", **values: Any) -> dict[str, Any]:
    (only,) = pod(name, **values)["containers"]
    return dict(only)


def pod(name: str = "kubernetes", **values: Any) -> dict[str, Any]:
    return dict(configuration(name, **values).job_manifest["spec"]["template"]["spec"])


@pytest.mark.parametrize("name", WORKERS)
def test_every_placeholder_is_a_variable_and_every_variable_is_used(name: str) -> None:
    filled = template(name)
    used = {placeholder.name for placeholder in find_placeholders(filled["job_configuration"])}
    offered = set(filled["variables"]["properties"])
    # A deployment's env joins that of the template, which names no placeholder for it.
    assert used | {"env"} == offered
    assert all(variable.get("description") for variable in filled["variables"]["properties"].values())


@pytest.mark.parametrize("name", WORKERS)
def test_the_template_fills_every_field_of_the_workers_own_but_the_few_that_are_refused(name: str) -> None:
    own = WORKERS[name].get_default_base_job_template()
    left_out = set(own["job_configuration"]) - set(template(name)["job_configuration"])
    added = set(template(name)["job_configuration"]) - set(WORKERS[name].job_configuration.model_fields)
    assert (left_out, added) == ({"privileged"} if name == "docker" else set(), set())


@pytest.mark.parametrize("name", WORKERS)
def test_no_template_holds_a_secret(name: str) -> None:
    text = (TEMPLATES / f"{name}.json").read_text()
    env = configuration(name, store="s3://b/p").env
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} & set(env)
    assert '"password": "' not in text.lower()


@pytest.mark.parametrize("name", ["process", "docker"])
def test_a_deployments_store_wins_over_the_pools(name: str) -> None:
    assert configuration(name, store="s3://pool/p").env["MIRAGE_STORE"] == "s3://pool/p"
    env = {"MIRAGE_STORE": "s3://deployment/p", "OTHER": "1"}
    environment = configuration(name, store="s3://pool/p", env=env).env
    assert (environment["MIRAGE_STORE"], environment["OTHER"]) == ("s3://deployment/p", "1")


def test_a_process_runs_on_the_gpus_it_was_given_and_by_default_on_those_of_its_worker() -> None:
    assert "CUDA_VISIBLE_DEVICES" not in configuration("process").env
    assert configuration("process", gpus="0,1").env["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.parametrize("requested", [None, [], [{"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu"]]}]])
def test_docker_is_asked_for_gpus_shared_memory_data_and_credentials_in_a_file(requested: Any) -> None:
    from docker.models.containers import _create_container_args

    values = {} if requested is None else {"device_requests": requested}
    filled = configuration("docker", image="registry/mirage:gpu", **values)
    settings = DockerWorker(work_pool_name="docker")._build_container_settings(
        SimpleNamespace(version=lambda: {"Version": "27.0.0"}), filled
    )
    created = _create_container_args({**settings, "version": "1.45"})  # refuses what Docker's client does not know
    host = created["host_config"]

    counts = [request["Count"] for request in host.get("DeviceRequests", [])]
    assert counts == {None: [-1], 0: [], 1: [1]}[None if requested is None else len(requested)]
    assert host["ShmSize"] == 8 * 2**30
    assert host["Binds"] == ["mirage-data:/data", "/etc/mirage/aws-credentials:/run/secrets/aws-credentials:ro"]
    assert created["environment"]["AWS_SHARED_CREDENTIALS_FILE"] == "/run/secrets/aws-credentials"
    assert host["SecurityOpt"] == ["no-new-privileges"] and not host.get("Privileged")
    assert created["image"] == "registry/mirage:gpu"


def test_a_pod_gets_a_gpu_shared_memory_and_a_place_on_gpu_nodes() -> None:
    filled = pod(node_selector={"gpu": "h200"}, image="registry/mirage:gpu", gpus=2, shm_size="16Gi")
    (box,) = filled["containers"]

    assert box["image"] == "registry/mirage:gpu"
    assert box["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert filled["nodeSelector"] == {"gpu": "h200"}
    assert filled["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    memory = {volume["name"]: volume["emptyDir"] for volume in filled["volumes"]}["shm"]
    assert memory == {"medium": "Memory", "sizeLimit": "16Gi"}
    assert {mount["name"]: mount["mountPath"] for mount in box["volumeMounts"]} == {"shm": "/dev/shm", "data": "/data"}
    assert filled["securityContext"]["runAsNonRoot"] and filled["securityContext"]["runAsUser"] == 10001
    assert filled["restartPolicy"] == "Never"
    assert box["args"] == ["prefect", "flow-run", "execute"]


def test_a_pods_keys_come_from_secrets_and_its_store_from_the_deployment() -> None:
    env = container(env={"MIRAGE_STORE": "s3://deployment/p"}, s3_secret="ours")["env"]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for entry in env:
        by_name.setdefault(entry["name"], []).append(entry)

    assert all(len(entries) == 1 for entries in by_name.values()), "of two, nobody knows which one counts"
    assert by_name["MIRAGE_STORE"][0]["value"] == "s3://deployment/p"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert by_name[name][0] == {"name": name, "valueFrom": {"secretKeyRef": {"name": "ours", "key": name}}}
    for name in ("AWS_ENDPOINT_URL", "PREFECT_API_AUTH_STRING"):
        assert by_name[name][0]["valueFrom"]["secretKeyRef"]["optional"] is True


def test_a_pod_without_a_gpu_asks_for_none() -> None:
    filled = pod(gpus=0, tolerations=[])
    assert filled["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 0
    assert filled["tolerations"] == []
    assert "runtimeClassName" not in filled
    assert pod(runtime_class="nvidia")["runtimeClassName"] == "nvidia"


def test_kubernetes_own_client_knows_every_field_of_the_job() -> None:
    manifest = configuration("kubernetes", env={"A": "1"}, cpu_limit="8", runtime_class="nvidia").job_manifest

    async def there_and_back() -> Any:
        async with ApiClient(Configuration()) as client:
            response = SimpleNamespace(data=json.dumps(manifest))
            known = client.deserialize(response, "V1Job")
            return client.sanitize_for_serialization(known)

    # Unknown fields do not survive the way through the client's model of a Job.
    assert _plain(asyncio.run(there_and_back())) == _plain(manifest)


def test_the_images_hold_the_code_where_deployments_with_an_image_look_for_it() -> None:
    for name in ("cpu", "gpu"):
        assert f"WORKDIR {IMAGE_FOLDER}\n" in (TEMPLATES.parents[1] / "docker" / f"{name}.Dockerfile").read_text()


def _plain(value: Any) -> Any:
    """Without what is null, and numbers as text: a quantity may be either."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
