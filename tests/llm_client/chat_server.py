"""A chat endpoint on loopback whose answers a test decides: good, bad, late, or none."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mirage_core.store.digests import canonical_json

USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


@dataclass
class Call:
    """A received request, and ways to answer it."""

    number: int
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    handler: BaseHTTPRequestHandler

    def send(self, status: int, body: Any, **headers: str) -> None:
        """Send a whole answer; ``retry_after`` becomes Retry-After."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.handler.send_response(status)
        self.handler.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()
        self.handler.wfile.write(data)

    def reply(
        self, text: str | None, finish: str = "stop", usage: Mapping[str, int] | None = USAGE, **more: Any
    ) -> None:
        """Send a chat completion with this text."""
        self.send(200, completion(text, finish, usage, **more))

    def fail(self, status: int, message: str = "out of order", **headers: str) -> None:
        """Send an error in OpenAI's format."""
        self.send(status, {"error": {"message": message, "type": "error", "code": None}}, **headers)

    def raw(self, data: bytes) -> None:
        """Send raw bytes and close the connection."""
        self.handler.wfile.write(data)
        self.handler.wfile.flush()
        self.handler.close_connection = True


def completion(
    text: str | None, finish: str = "stop", usage: Mapping[str, int] | None = USAGE, **more: Any
) -> dict[str, Any]:
    """Return a chat completion in the API's format."""
    message = {"role": "assistant", "content": text, **more}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "served", "choices": [choice]}
    return {**body, "usage": dict(usage)} if usage else body


Respond = Callable[[Call], None]


@dataclass
class ChatServer:
    """Received requests, and the function that answers them; ``respond`` may be replaced while it runs."""

    respond: Respond
    calls: list[Call] = field(default_factory=list)
    answered: list[bytes] = field(default_factory=list)
    most_at_once: int = 0
    now: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Record a request and answer it."""
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        with self.lock:
            self.now += 1
            self.most_at_once = max(self.most_at_once, self.now)
            headers = {name.lower(): value for name, value in handler.headers.items()}
            call = Call(len(self.calls) + 1, handler.path, headers, json.loads(body or b"{}"), handler)
            self.calls.append(call)
        try:
            self.respond(call)
            with self.lock:
                self.answered.append(canonical_json(call.body))
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self.lock:
                self.now -= 1


@contextmanager
def chat_server(respond: Respond) -> Iterator[ChatServer]:
    """Run a server on a free local port inside the block."""
    server = ChatServer(respond)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            server.handle(self)

        do_GET = do_POST

        def log_message(self, *args: Any) -> None:
            """Silent."""

    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    thread = threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{web.server_address[1]}/v1"
    try:
        yield server
    finally:
        web.shutdown()
        web.server_close()
