"""A small Hugging Face hub on loopback: as much of its HTTP interface as an upload by the real client needs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_made_up_for_a_test"


class FakeHub(ThreadingHTTPServer):
    """Keeps repositories: by name the files of their last commit. Large files come by the LFS way, others inline."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """A hub that runs for the block."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self._body()
        self.server.asked.append(f"POST {self.path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif match := re.fullmatch(r"/api/models/(.+)/preupload/main.*", self.path):
            self._sort(json.loads(body)["files"])
        elif re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", self.path):
            self._batch(json.loads(body))
        elif match := re.fullmatch(r"/api/models/(.+)/commit/main.*", self.path):
            self._commit(match[1], [json.loads(line) for line in body.splitlines() if line])
        else:
            self._answer(404, {"error": f"no {self.path} here"})

    def do_PUT(self) -> None:
        content = self._body()
        self.server.asked.append("PUT object")
        digest = self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != digest:
            self._answer(400, {"error": "wrong content"})
            return
        self.server.objects[digest] = content
        self._answer(200, {})

    def do_GET(self) -> None:
        self.server.asked.append(f"GET {self.path}")
        self._answer(404, {"error": f"no {self.path} here"})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if name.startswith("somebody-else/"):
            self._answer(403, {"error": "You don't have the rights to create a model under this namespace"})
            return
        self.server.repositories.setdefault(name, {})
        self.server.private[name] = asked.get("private") is True or asked.get("visibility") == "private"
        self._answer(200, {"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def _sort(self, files: list[dict[str, Any]]) -> None:
        modes = [
            {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
            for file in files
        ]
        self._answer(200, {"files": [{**mode, "shouldIgnore": False} for mode in modes]})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            {
                **entry,
                "authenticated": True,
                "actions": {"upload": {"href": f"{self.server.url}/object/{entry['oid']}", "header": {}}},
            }
            for entry in asked["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = self.server.repositories[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        commit = {"commitUrl": f"{self.server.url}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40}
        self._answer(200, {**commit, "hookOutput": "", "success": True})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, content: dict[str, Any], kind: str = "application/json") -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing on the test's output."""
