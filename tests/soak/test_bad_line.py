"""The bad line: each of its faults, as a client of HTTP sees it."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.soak import bad_line
from tests.soak.bad_line import BadLine

BODY = b"0123456789" * 1000


class _Server(http.server.BaseHTTPRequestHandler):
    """Answers everything with the same bytes; puts are remembered."""

    protocol_version = "HTTP/1.1"
    put: list[bytes]

    def do_GET(self) -> None:
        self._answer(BODY)

    def do_PUT(self) -> None:
        self.put.append(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Host", self.headers["Host"])
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def puts() -> list[bytes]:
    """What the server behind the line was given."""
    return []


@pytest.fixture
def line(puts: list[bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[BadLine]:
    """A line to a server that always works."""
    monkeypatch.setattr(bad_line, "SLOW_S", 0.0)
    handler = type("Handler", (_Server,), {"put": puts})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with BadLine(f"http://127.0.0.1:{server.server_port}", seed=1) as line:
        yield line
    server.shutdown()
    server.server_close()
    thread.join()


def only(line: BadLine, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(bad_line, "FAULTS", {fault: 1})
    line.rate = 1.0


def get(line: BadLine) -> httpx.Response:
    return httpx.get(f"{line.url}/bucket/a%20b", timeout=30, trust_env=False)


def put(line: BadLine, timeout: float = 30) -> httpx.Response:
    return httpx.put(f"{line.url}/bucket/key", content=BODY, timeout=timeout, trust_env=False)


def test_a_good_call_passes_unchanged_with_the_host_that_was_signed(line: BadLine, puts: list[bytes]) -> None:
    answer = get(line)
    assert (answer.content, answer.headers["X-Host"]) == (BODY, line.url.removeprefix("http://"))
    assert put(line).status_code == 200
    assert puts == [BODY]
    assert (line.calls, line.faults.total()) == (2, 0)


@pytest.mark.parametrize("fault", ["500", "503"])
def test_a_refused_call_never_reaches_the_server(
    line: BadLine, puts: list[bytes], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    only(line, monkeypatch, fault)
    assert put(line).status_code == int(fault)
    assert puts == []
    assert line.faults == {fault: 1}


def test_a_reset_comes_before_the_server_has_it(
    line: BadLine, puts: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(line, monkeypatch, "reset before the server has it")
    with pytest.raises(httpx.TransportError):
        put(line)
    assert puts == []


def test_a_lost_answer_is_that_of_a_write_that_was_done(
    line: BadLine, puts: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(line, monkeypatch, "answer lost")
    with pytest.raises(httpx.TransportError):
        put(line)
    assert puts == [BODY]


def test_an_answer_that_never_comes_runs_into_the_clients_time_out(
    line: BadLine, puts: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(line, monkeypatch, "answer never comes")
    with pytest.raises(httpx.ReadTimeout):
        put(line, timeout=1)
    assert puts == [BODY]


def test_a_cut_answer_ends_in_its_middle(line: BadLine, monkeypatch: pytest.MonkeyPatch) -> None:
    only(line, monkeypatch, "answer cut")
    with pytest.raises(httpx.RemoteProtocolError):
        get(line)


def test_a_garbled_download_has_one_bit_wrong(line: BadLine) -> None:
    line.garbled = 1.0
    seen = get(line).content
    assert sum(a != b for a, b in zip(seen, BODY, strict=True)) == 1
    assert line.faults == {"garbled": 1}
