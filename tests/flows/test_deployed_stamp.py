"""`mirage deploy` sends the deployments where the server has others, or fewer, and only there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deployments import api, deployed

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"MIRAGE_STORE": "/stores/a", "PWD": "/here"}


class Server:
    """What the stamp asks of a Prefect server: one variable, and deployments with a store."""

    def __init__(self, count: int) -> None:
        self.variable: str | None = None
        self.count, self.store = count, "/stores/a"

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path, json.loads(request.content or b"{}")
        if path.endswith("/deployments/count"):
            assert body == {"deployments": {"tags": {"all_": ["mirage"]}}}
            return httpx.Response(200, json=self.count)
        if path.endswith("/deployments/name/mirage/full-pipeline"):
            found = {"job_variables": {"env": {"MIRAGE_STORE": self.store}}}
            return httpx.Response(200 if self.count else 404, json=found)
        if request.method != "POST" and self.variable is None:
            return httpx.Response(404, json={"detail": "Variable not found"})
        if request.method != "GET":
            self.variable = body["value"]
        return httpx.Response(200, json={"value": self.variable})


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "prefect.yaml", tmp_path)
    for folder in deployed.CODE:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "code.py").write_text("A = 1\n")
    return tmp_path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    answering = Server(len(yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]))

    @contextmanager
    def client(url: str) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=url, transport=httpx.MockTransport(answering)) as opened:
            yield opened

    monkeypatch.setattr(api, "client", client)
    return answering


def test_what_was_sent_is_current_until_something_changes(server: Server, checkout: Path) -> None:
    def current(**changed: Any) -> bool:
        return deployed.is_current("http://server/api", checkout, {**ENVIRONMENT, **changed})

    assert not current()
    deployed.remember("http://server/api", checkout, ENVIRONMENT)
    assert current()
    assert not current(MIRAGE_WORK_POOL="kubernetes") and not current(MIRAGE_STORE="/stores/b")
    (checkout / "flows" / "code.py").write_text("A = 2\n")
    assert not current()
    deployed.remember("http://server/api", checkout, ENVIRONMENT)  # the variable is there now: its value is replaced
    assert current()


def test_a_server_that_lost_a_deployment_or_has_another_store_is_sent_all(server: Server, checkout: Path) -> None:
    deployed.remember("http://server/api", checkout, ENVIRONMENT)
    server.store = "/stores/by-hand"
    assert not deployed.is_current("http://server/api", checkout, ENVIRONMENT)
    server.store, server.count = "/stores/a", server.count - 1
    assert not deployed.is_current("http://server/api", checkout, ENVIRONMENT)
    server.count = 0
    assert not deployed.is_current("http://server/api", checkout, ENVIRONMENT)
