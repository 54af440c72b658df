"""A chat endpoint on loopback that answers as a test says: well, badly, late, or not at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mirage_core.llm_client.messages import first_messages
from mirage_core.llm_client.prompt_templates import load_prompt
from mirage_core.store.digests import canonical_json
from mirage_core.teacher.oracle import OracleTeacher
from mirage_core.types import AuxiliaryImage, Problem

USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}


@dataclass
class Call:
    """One request as it came in, and how to answer it."""

    number: int
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    handler: BaseHTTPRequestHandler

    def send(self, status: int, body: Any, **headers: str) -> None:
        """A whole answer; ``retry_after`` becomes Retry-After."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.handler.send_response(status)
        self.handler.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()
        self.handler.wfile.write(data)

    def say(self, text: str | None, finish: str = "stop", usage: Mapping[str, int] | None = USAGE, **more: Any) -> None:
        """A chat completion with this text."""
        self.send(200, completion(text, finish, usage, **more))

    def fail(self, status: int, message: str = "out of order", **headers: str) -> None:
        """An error as OpenAI words it."""
        self.send(status, {"error": {"message": message, "type": "error", "code": None}}, **headers)

    def raw(self, data: bytes) -> None:
        """Bytes as they are, then the end of the connection."""
        self.handler.wfile.write(data)
        self.handler.wfile.flush()
        self.handler.close_connection = True


def completion(
    text: str | None, finish: str = "stop", usage: Mapping[str, int] | None = USAGE, **more: Any
) -> dict[str, Any]:
    """A chat completion as the API has it."""
    message = {"role": "assistant", "content": text, **more}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "served", "choices": [choice]}
    return {**body, "usage": dict(usage)} if usage else body


Respond = Callable[[Call], None]


@dataclass
class ChatServer:
    """What came in, and how it is answered; ``respond`` may be exchanged while it runs."""

    respond: Respond
    calls: list[Call] = field(default_factory=list)
    answered: list[bytes] = field(default_factory=list)
    most_at_once: int = 0
    now: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Take a request down and answer it."""
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
    """A server on a free port of this machine, stopped afterwards."""
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


class GoodTeacher:
    """Answers as the oracle would, for the problems it was told of; knows them by the first user message."""

    def __init__(self, lessons: list[tuple[Problem, AuxiliaryImage]]) -> None:
        oracle = OracleTeacher()
        self.texts = {}
        self.problems = {}
        for problem, picture in lessons:
            prompt = load_prompt("mirage", "cot", problem.benchmark)
            asked = canonical_json(first_messages(prompt, problem, picture, "cot")[1])
            chain = oracle.chain(problem, picture, "cot")
            self.texts[asked] = f"{chain.text_before}\n<output_image>\n{chain.text_after}"
            self.problems[asked] = problem

    def problem(self, call: Call) -> Problem:
        """The problem that a request is about."""
        return self.problems[canonical_json(call.body["messages"][1])]

    def text(self, call: Call) -> str:
        """The oracle's chain in the form that was asked for."""
        return self.texts[canonical_json(call.body["messages"][1])]

    def __call__(self, call: Call) -> None:
        call.say(self.text(call))
