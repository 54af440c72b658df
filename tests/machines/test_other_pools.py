"""Deployments to another work pool than the local one: MIRAGE_WORK_POOL and MIRAGE_IMAGE."""

from __future__ import annotations

import base64
from pathlib import Path

import httpx
import pytest
import yaml

from deployments import api
from deployments.bucket import make_bucket
from deployments.pools import IMAGE_FOLDER, prefect_file
from mirage_core.errors import SettingsError

ROOT = Path(__file__).parents[2]
OWN = yaml.safe_load((ROOT / "prefect.yaml").read_text())


def test_without_a_choice_the_checkouts_own_file_is_deployed() -> None:
    with prefect_file(ROOT, {"MIRAGE_WORK_POOL": "", "OTHER": "1"}) as file:
        assert file == ROOT / "prefect.yaml"


def test_another_pool_changes_the_pool_of_every_deployment_and_nothing_else() -> None:
    with prefect_file(ROOT, {"MIRAGE_WORK_POOL": "gpus"}) as file:
        chosen = yaml.safe_load(file.read_text())
    assert not file.exists()
    assert chosen["pull"] == OWN["pull"]
    assert {entry["work_pool"]["name"] for entry in chosen["deployments"]} == {"gpus"}
    for entry, own in zip(chosen["deployments"], OWN["deployments"], strict=True):
        assert {**entry, "work_pool": None} == {**own, "work_pool": None}
        assert entry["work_pool"]["job_variables"] == own["work_pool"]["job_variables"]


def test_an_image_is_named_by_every_deployment_and_its_code_is_run() -> None:
    with prefect_file(ROOT, {"MIRAGE_WORK_POOL": "k8s", "MIRAGE_IMAGE": "registry/mirage:gpu"}) as file:
        chosen = yaml.safe_load(file.read_text())
    assert chosen["pull"] == [{"prefect.deployments.steps.set_working_directory": {"directory": IMAGE_FOLDER}}]
    images = {entry["work_pool"]["job_variables"]["image"] for entry in chosen["deployments"]}
    assert images == {"registry/mirage:gpu"}
    assert all("MIRAGE_STORE" in entry["work_pool"]["job_variables"]["env"] for entry in chosen["deployments"])


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({}, None),
        ({"PREFECT_API_AUTH_STRING": "admin:a:b"}, "Basic " + base64.b64encode(b"admin:a:b").decode()),
        ({"PREFECT_API_KEY": "key"}, "Bearer key"),
    ],
)
def test_the_servers_api_is_shown_the_credentials_of_prefects_own_clients(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], shown: str | None
) -> None:
    for name in ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("Authorization"))
        return httpx.Response(200)

    with api.client("http://127.0.0.1:1/api") as client:
        client._transport = httpx.MockTransport(answer)
        client.get("/health")
    assert seen == [shown]


@pytest.mark.parametrize("url", ["/data/store", "s3://", ""])
def test_only_an_s3_store_has_a_bucket(url: str) -> None:
    with pytest.raises(SettingsError, match="expected s3://bucket/prefix"):
        make_bucket(url)
