"""A run that lives and is told Crashed says that it lives.

When the Prefect server was away for longer than the heartbeat automation waits (deployments/automations/), it finds on
its return that every run has been silent, and marks them Crashed, though they work on.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Running

LOOK_S = 15.0

Log = logging.Logger | logging.LoggerAdapter[Any]


@contextmanager
def said_to_live() -> Iterator[None]:
    """Inside the block, set this flow run back to Running whenever the server says Crashed."""
    done = threading.Event()
    # Which server, and which run the log belongs to, live in context variables.
    looks = contextvars.copy_context()
    work = (_look, UUID(str(flow_run.id)), get_run_logger(), done)
    thread = threading.Thread(target=looks.run, args=work, name="said-to-live", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)


def _look(run: UUID, log: Log, done: threading.Event) -> None:
    with get_client(sync_client=True) as client:
        while not done.wait(LOOK_S):
            try:
                _correct(client, run, log, done)
            except (httpx.HTTPError, ObjectNotFound):
                continue  # the server is away: the next look says more


def _correct(client: SyncPrefectClient, run: UUID, log: Log, done: threading.Event) -> None:
    state = client.read_flow_run(run).state
    if state is not None and state.is_crashed() and not done.is_set():
        client.set_flow_run_state(run, Running(message="The run's process lives: the server was away."), force=True)
        log.warning("the server took this run for dead (%s); it is set back to Running", state.message)
