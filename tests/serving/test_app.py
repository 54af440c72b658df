"""Who is let in, and how much: the application without a process around it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from starlette.requests import Request
from starlette.types import Message

from mirage_core.errors import InputError, SettingsError
from mirage_core.generation.generator import Generator
from mirage_core.serving.app import make_app
from mirage_core.serving.guards import read_body
from mirage_core.serving.limits import RequestError, ServingLimits
from mirage_core.serving.server import ModelServer

BODY = {"model": "m", "messages": [{"role": "user", "content": "Where?"}], "max_tokens": 3}


@pytest.fixture
def server(generator: Generator) -> ModelServer:
    return ModelServer(generator, "m", ServingLimits(queue=2, rows=2, choices=2))


@pytest.fixture
def client(server: ModelServer) -> Iterator[TestClient]:
    with TestClient(make_app(server, None, local=True), base_url="http://127.0.0.1:8000") as made:
        yield made


def test_without_a_key_only_the_names_of_this_machine_are_answered(client: TestClient) -> None:
    assert client.post("/v1/chat/completions", json=BODY).status_code == 200
    rebound = {"Host": "evil.example:8000"}
    assert client.post("/v1/chat/completions", json=BODY, headers=rebound).status_code == 400
    assert client.get("/metrics", headers={"Host": "localhost:8000"}).status_code == 200


def test_a_full_queue_asks_to_come_again(server: ModelServer, client: TestClient) -> None:
    places = [server.place(), server.place()]
    reply = client.post("/v1/chat/completions", json=BODY)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
    places[0].release()
    places[0].release()
    assert server.waiting == 1
    assert client.post("/v1/chat/completions", json=BODY).status_code == 200
    assert server.waiting == 1


def test_refused_requests_leave_the_queue(server: ModelServer, client: TestClient) -> None:
    for _ in range(5):
        assert client.post("/v1/chat/completions", json={**BODY, "n": 9}).status_code == 400
    assert server.waiting == 0


def test_a_stopped_engine_is_not_healthy(server: ModelServer, client: TestClient) -> None:
    assert client.get("/health").status_code == 200
    server.engine.stop()
    assert client.get("/health").status_code == 503
    reply = client.post("/v1/chat/completions", json=BODY)
    assert reply.status_code == 503 and reply.json()["error"]["type"] == "server_error"
    assert server.waiting == 0


def test_every_path_but_health_needs_the_key(server: ModelServer) -> None:
    with TestClient(make_app(server, SecretStr("k"), local=False)) as client:
        assert [client.get(path).status_code for path in ("/health", "/metrics", "/v1/models")] == [200, 401, 401]
        assert client.get("/v1/models", headers={"Authorization": "bearer k"}).status_code == 200
        assert client.get("/v1/models", headers={"Authorization": "Bearer ké".encode("latin-1")}).status_code == 401


def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    async def receive() -> Message:
        await asyncio.sleep(60)
        raise AssertionError("waited too long")

    scope = {"type": "http", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(RequestError, match=r"within 0.05 seconds") as refused:
        asyncio.run(read_body(Request(scope, receive), ServingLimits(body_s=0.05)))
    assert refused.value.status == 408


def test_models_whose_rows_cannot_join_are_refused_at_the_start(generator: Generator) -> None:
    other = Generator.__new__(Generator)
    other.__dict__.update(generator.__dict__)
    other.decoding = replace(generator.decoding, bottleneck="latent_only")
    with pytest.raises(SettingsError, match="latent_only"):
        ModelServer(other, "m", ServingLimits())


def test_limits_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="queue"):
        ServingLimits(queue=0)
    with pytest.raises(InputError, match="no more than rows"):
        ServingLimits(rows=2, choices=3)
