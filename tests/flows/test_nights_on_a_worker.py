"""Nights on a real server and worker: a drop fails and is told to a real listener; of two at once one is cancelled."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deployments import automations
from flows.pointers import describe_model
from mirage_core.store import Store
from mirage_core.types import Artifact
from tests.flows.nights import Nights
from tests.servers.stack import LiveStack

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("live-stack")]

NIGHTLY = "mirage-evaluation/nightly"
PATIENCE_S = 180.0


class Listener(ThreadingHTTPServer):
    """Keeps the JSON of every POST."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.heard: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Nothing on stderr."""


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A real HTTP server on loopback."""
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def point_at(store: Store, model: Artifact) -> None:
    store.point("nightly", model, about=describe_model(store, model))


def notify(live_stack: LiveStack, url: str) -> list[str]:
    """Make the block that people make in the UI, and deploy the automations again; what that said."""
    from prefect.blocks.notifications import CustomWebhookNotificationBlock
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: live_stack.api}):
        template = {"subject": "{{subject}}", "body": "{{body}}"}
        CustomWebhookNotificationBlock(name="night", url=url, json_data=template).save("mirage-notify", overwrite=True)
    messages: list[str] = []
    automations.install(live_stack.api, messages.append)
    return messages


def test_a_significant_drop_fails_the_run_and_is_told_with_its_figures(
    live_stack: LiveStack, listener: Listener
) -> None:
    nights = Nights(Store.open(live_stack.store))
    good, bad = nights.model("good", 36, 30), nights.model("bad", 18, 30)
    assert any("a failed night is told" in line for line in notify(live_stack, listener.url))

    point_at(nights.store, good)
    assert live_stack.wait(live_stack.run(NIGHTLY))["type"] == "COMPLETED"
    point_at(nights.store, bad)
    dropped = live_stack.run(NIGHTLY)
    state = live_stack.wait(dropped)

    assert (state["type"], state["name"]) == ("FAILED", "Failed")
    assert "vsp-planning 90.0% -> 45.0%" in state["message"]
    assert good.digest in state["message"] and bad.digest in state["message"]
    assert {run["state_name"] for run in live_stack.task_runs(dropped)} == {"Cached"}
    live_stack.until(lambda: bool(listener.heard), "the listener has heard of the drop", PATIENCE_S)
    assert len(listener.heard) == 1, "the completed night is not told"
    assert "is Failed" in listener.heard[0]["subject"]
    assert "vsp-planning 90.0% -> 45.0%" in listener.heard[0]["body"]
    assert f"flow-run/{dropped}" in listener.heard[0]["body"]


def test_of_two_nights_at_once_one_is_cancelled(live_stack: LiveStack) -> None:
    nights = Nights(Store.open(live_stack.store))
    point_at(nights.store, nights.model("good", 36, 30))
    both = [live_stack.run(NIGHTLY), live_stack.run(NIGHTLY)]
    states = sorted(live_stack.wait(run)["type"] for run in both)

    assert states == ["CANCELLED", "COMPLETED"]
    cancelled = next(run for run in both if live_stack.state(run)["type"] == "CANCELLED")
    assert live_stack.task_runs(cancelled) == []
    assert "concurrency" in str(live_stack.state(cancelled)["message"]).lower()
