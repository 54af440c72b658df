"""Slow clients, on a real socket: a request has to come in time, an answer may take as long as it takes."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from flows.commands.serve import serve
from mirage_core.serving.connections import TimelyH11Protocol
from mirage_core.serving.guards import read_body
from mirage_core.serving.limits import RequestError, ServingLimits

PATIENCE_S = 0.5
HEAD = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


class Impatient(TimelyH11Protocol):
    patience_s = PATIENCE_S


def app() -> FastAPI:
    made = FastAPI()

    @made.get("/slow")
    async def slow() -> Response:
        await asyncio.sleep(3 * PATIENCE_S)
        return Response("done")

    @made.post("/read")
    async def read(request: Request) -> Response:
        try:
            return Response(await read_body(request, ServingLimits(body_s=PATIENCE_S)))
        except RequestError as error:
            return Response(str(error), error.status)

    @made.post("/refuse")
    async def refuse() -> Response:
        return Response("no", 401)

    return made


@pytest.fixture
def connect() -> Iterator[Callable[[], socket.socket]]:
    """Opens connections to a server of its own."""
    config = uvicorn.Config(app(), host="127.0.0.1", port=0, log_level="warning", http=Impatient, ws="none")
    server, listening = uvicorn.Server(config), config.bind_socket()
    listening.listen(16)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
    thread.start()
    opened: list[socket.socket] = []

    def one() -> socket.socket:
        opened.append(socket.create_connection(listening.getsockname(), timeout=30))
        return opened[-1]

    yield one
    for each in opened:
        each.close()
    server.should_exit = True
    thread.join(30)


def dripped(connection: socket.socket, data: bytes) -> tuple[bytes, float]:
    """Send a byte every now and then until the server closes; what it said, and after how many seconds."""
    began, said = time.monotonic(), b""
    connection.settimeout(PATIENCE_S / 10)
    for at in range(400):
        try:
            connection.sendall(data[at : at + 1] or b"x")
            part = connection.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            break
        said += part
        if not part:
            break
    else:
        raise AssertionError("the server goes on waiting")
    return said, time.monotonic() - began


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(connect: Callable[[], socket.socket]) -> None:
    said, seconds = dripped(connect(), b"GET /slow HTTP/1.1\r\nX-Long: " + b"x" * 10_000)
    assert said == b"" and seconds >= PATIENCE_S * 0.9


def test_a_connection_without_a_request_is_closed(connect: Callable[[], socket.socket]) -> None:
    assert connect().recv(1) == b""


def test_a_body_that_comes_byte_by_byte_is_refused_and_then_cut_off(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(HEAD)
    said, _ = dripped(connection, b" " * 10_000)
    assert said.startswith(b"HTTP/1.1 408") and b"did not arrive" in said


def test_a_body_that_nobody_reads_is_cut_off(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(HEAD.replace(b"/read", b"/refuse").replace(b"100", b"100000"))
    said, _ = dripped(connection, b" " * 10_000)
    assert said.startswith(b"HTTP/1.1 401")


def test_the_command_listens_with_such_connections(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[uvicorn.Config] = []

    class Listens:
        def __init__(self, config: uvicorn.Config) -> None:
            seen.append(config)

        def run(self, sockets: list[socket.socket]) -> None:
            for each in sockets:
                each.close()

    monkeypatch.setattr(uvicorn, "Server", Listens)
    serve(
        str(model_folder), None, str(tmp_path / "store"), "127.0.0.1", 0, key=None, name=None, drain_s=1,
        limits=ServingLimits(),
    )  # fmt: skip
    assert [config.http for config in seen] == [TimelyH11Protocol]


def test_answers_take_their_time_and_connections_are_used_again(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    for _ in range(2):
        connection.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b""
        while not said.endswith(b"done"):
            part = connection.recv(65536)
            assert part
            said += part
    connection.sendall(b"GET /sl")
    said, _ = dripped(connection, b"ow")
    assert said == b""
