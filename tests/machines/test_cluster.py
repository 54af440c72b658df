"""More than one machine, as far as one machine can show it: a server that asks for a password, other pools, Dask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments import api, local_stack
from deployments.pools import IMAGE_FOLDER
from mirage_core.pipeline.runner import run_in_process
from mirage_core.pipeline.shards import SHARD
from mirage_core.recipes import load
from mirage_core.store import Store
from tests.machines.small_world import SIZES, silent
from tests.servers.stack import ROOT, LiveStack, running_stack

pytestmark = pytest.mark.e2e
AUTH = "admin:a password"


@pytest.fixture
def guarded_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveStack]:
    """A stack of its own, whose server answers nobody without the password."""
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", AUTH)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", AUTH)
    with running_stack(tmp_path / "guarded", str(tmp_path / "store")) as stack:
        yield stack


def test_a_server_with_a_password_takes_a_pool_of_every_template_and_deployments_to_it(
    guarded_stack: LiveStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRAGE_IMAGE", "registry.example/mirage:gpu")
    environment = local_stack.environment(guarded_stack.stack, guarded_stack.api)
    for kind in ("process", "docker", "kubernetes"):
        file = ROOT / "deployments" / "templates" / f"{kind}.json"
        command = ["work-pool", "create", f"the-{kind}", "--type", kind, "--base-job-template", str(file)]
        subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *command],
            env=environment,
            check=True,
            cwd=ROOT,
            timeout=300,
        )
        pool = asked(guarded_stack, f"/work_pools/the-{kind}")
        assert (pool["type"], pool["base_job_template"]) == (kind, json.loads(file.read_text()))

        monkeypatch.setenv("MIRAGE_WORK_POOL", f"the-{kind}")
        local_stack.deploy(guarded_stack.stack, guarded_stack.api, store="s3://bucket/prefix", log=print)
        deployment = asked(guarded_stack, "/deployments/name/mirage/full-pipeline")
        assert deployment["work_pool_name"] == f"the-{kind}"
        assert deployment["job_variables"]["image"] == "registry.example/mirage:gpu"
        assert deployment["job_variables"]["env"]["MIRAGE_STORE"] == "s3://bucket/prefix"
        (step,) = deployment["pull_steps"]
        assert step["prefect.deployments.steps.set_working_directory"] == {"directory": IMAGE_FOLDER}


def test_a_deployed_run_fans_out_over_a_local_dask_cluster(live_stack: LiveStack, tmp_path: Path) -> None:
    overrides = [*SIZES, "evaluation.methods=[zero-shot]", "model.warmup.steps=1"]
    wanted = run_in_process(load("micro", overrides), Store.open(tmp_path / "direct"), silent)
    parameters = {
        "stage": "evaluation", "method": "zero-shot", "recipe": "micro",
        "overrides": [*overrides, "runtime.shards=2", "runtime.task_runner=dask"],
    }  # fmt: skip

    run = live_stack.run("mirage-stage/evaluation", parameters, {"MIRAGE_STORE": str(tmp_path / "store")})

    assert live_stack.wait(run)["type"] == "COMPLETED", live_stack.logs(run)
    names = {task["name"] for task in live_stack.task_runs(run)}
    assert {"evaluation/zero-shot", "evaluation/zero-shot 1 of 2", "evaluation/zero-shot 2 of 2"} <= names
    store = Store.open(tmp_path / "store")
    (deployment,) = store.list("evaluation")
    digests = {stage.name: stage.digest for stage in wanted.stages}
    assert deployment.digest == digests["evaluation/zero-shot"]
    assert store.list(SHARD) == []


def test_the_bucket_of_a_fresh_s3_server_is_made_once(s3_server: Any) -> None:
    environment = {**os.environ, **s3_server.environment(), "MIRAGE_STORE": "s3://made-for-mirage/store"}
    lines = [
        subprocess.run(
            [sys.executable, "-m", "deployments.bucket"],
            env=environment, capture_output=True, text=True, check=True, cwd=ROOT, timeout=300,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert [line.endswith("was created\n") for line in lines] == [True, False] and lines[1].endswith(" exists\n")

    wrong = {**environment, "AWS_SECRET_ACCESS_KEY": "wrong", "MIRAGE_STORE": "s3://another/store"}
    refused = subprocess.run(
        [sys.executable, "-m", "deployments.bucket"], env=wrong, capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert refused.returncode != 0
    assert "check AWS_ENDPOINT_URL and the keys" in refused.stderr


def asked(stack: LiveStack, path: str) -> Any:
    """A GET with the password."""
    with api.client(stack.api) as client:
        answer = client.get(path)
    answer.raise_for_status()
    return answer.json()
