"""The client of set-up: it waits out a server whose data base is locked for a moment."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from deployments import api


def test_a_server_that_is_busy_for_a_moment_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "RETRY_DELAY_S", 0.0)
    answers = [503, 503, 200]
    bodies: list[bytes] = []

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(answers.pop(0))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Silent."""

    server = HTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with api.client(f"http://127.0.0.1:{server.server_address[1]}") as client:
            assert client.post("/x", json={"a": 1}).status_code == 200
    finally:
        server.shutdown()
        server.server_close()
    assert bodies == [b'{"a":1}'] * 3
