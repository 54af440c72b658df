"""``mirage status``, ``deploy``, ``s3-block``: what of S3 they say, save, and keep to themselves."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from flows.cli import app

KEYS = {"AWS_ACCESS_KEY_ID": "canary-key", "AWS_SECRET_ACCESS_KEY": "canary-secret", "AWS_ENDPOINT_URL": "http://s3:1"}


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str, **environment: str) -> str:
    """What a command prints."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_status_says_where_the_store_is_and_where_the_keys_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    output = run_command(monkeypatch, "status", MIRAGE_STORE="s3://bucket/prefix", **KEYS)
    assert "store    s3://bucket/prefix" in output and "\nresults" not in output
    assert "keys     the AWS variables" in output
    assert "canary" not in output

    output = run_command(monkeypatch, "status", MIRAGE_S3_BLOCK="ours")
    assert "keys     Prefect block mirage-s3-credentials/ours" in output


def test_status_of_a_local_store_speaks_of_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "keys" not in run_command(monkeypatch, "status", MIRAGE_STORE="/somewhere")


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.xdist_group("prefect")
def test_the_keys_of_the_shell_become_a_block_that_shows_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    from tasks.credentials import S3Credentials

    output = run_command(monkeypatch, "s3-block", "ours", PREFECT_API_URL=str(PREFECT_API_URL.value()), **KEYS)

    assert "canary" not in output
    assert "MIRAGE_S3_BLOCK=ours mirage deploy" in output
    saved = S3Credentials.load("ours", _sync=True)  # type: ignore[call-arg]
    assert saved.environment() == KEYS
    with get_client(sync_client=True) as client:
        shown = client._client.post("/block_documents/filter", json={}).text
    assert "http://s3:1" in shown
    assert "canary" not in shown and "canary" not in repr(saved)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.xdist_group("prefect")
def test_deploying_makes_no_block_and_passes_prefect_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    def blocks() -> list[str]:
        with get_client(sync_client=True) as client:
            return sorted(block["id"] for block in client._client.post("/block_documents/filter", json={}).json())

    calls, before = [], blocks()

    def deployed(command: list[str], env: dict[str, str], **rest: object) -> subprocess.CompletedProcess[str]:
        calls.append(env)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("deployments.local_stack.subprocess.run", deployed)
    url = str(PREFECT_API_URL.value())
    for _ in range(2):
        run_command(monkeypatch, "deploy", "--store", "s3://bucket/prefix", PREFECT_API_URL=url, MIRAGE_S3_BLOCK="ours")

    assert blocks() == before
    assert [(env["MIRAGE_STORE"], env["MIRAGE_S3_BLOCK"]) for env in calls] == [("s3://bucket/prefix", "ours")] * 2


def test_a_deployment_tells_its_flows_where_the_keys_are_and_never_the_keys() -> None:
    from pathlib import Path

    import yaml

    text = (Path(__file__).parents[2] / "prefect.yaml").read_text()
    env = yaml.safe_load(text)["definitions"]["local"]["job_variables"]["env"]

    assert env["MIRAGE_S3_BLOCK"] == "{{ $MIRAGE_S3_BLOCK }}"
    assert "AWS_" not in str(env)


@pytest.mark.parametrize("url", ["s3://key:canary@bucket/prefix", "s3://bucket/prefix?secret=canary"])
def test_keys_in_the_store_s_url_are_refused_before_anything_is_told_of_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.commands.session import flow_environment
    from mirage_core.errors import SettingsError

    with pytest.raises(SettingsError) as caught:
        flow_environment(url)

    assert "canary" not in str(caught.value)


def test_a_run_s_own_environment_keeps_what_its_deployment_was_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    from typing import Any

    from rich.console import Console

    from flows import watch
    from flows.display.display import Silent

    asked: dict[str, Any] = {}

    class Api(watch.RunApi):
        def deployment(self, name: str) -> dict[str, Any]:
            return {"id": "1", "job_variables": {"env": {"MIRAGE_S3_BLOCK": "ours", "MIRAGE_STORE": "old"}}}

        def start(self, deployment: str, parameters: object, job_variables: object) -> str:
            asked["job_variables"] = job_variables
            return "2"

    monkeypatch.setattr(watch, "RunApi", Api)
    monkeypatch.setattr(watch._RunMonitor, "follow", lambda self: None)
    watch.start_and_watch(
        "http://127.0.0.1:1/api", "a/b", parameters={}, environment={"MIRAGE_STORE": "new"}, display=Silent(Console())
    )

    assert asked["job_variables"] == {"env": {"MIRAGE_S3_BLOCK": "ours", "MIRAGE_STORE": "new"}}
