"""Set a flow run that is alive back to Running where the server has marked it Crashed.

A Prefect server that was away for longer than the heartbeat automation waits (deployments/automations/) has received no
heartbeat of any run meanwhile: on its return it marks them all Crashed, although they still work.
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

CHECK_INTERVAL_S = 15.0

Log = logging.Logger | logging.LoggerAdapter[Any]


@contextmanager
def undo_false_crash() -> Iterator[None]:
    """Inside the block, set this flow run back to Running whenever the server marks it Crashed."""
    done = threading.Event()
    # Context variables hold the server's settings, and the run that the log belongs to.
    context = contextvars.copy_context()
    arguments = (_watch, UUID(str(flow_run.id)), get_run_logger(), done)
    thread = threading.Thread(target=context.run, args=arguments, name="undo-false-crash", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)


def _watch(run: UUID, log: Log, done: threading.Event) -> None:
    with get_client(sync_client=True) as client:
        while not done.wait(CHECK_INTERVAL_S):
            try:
                _set_running_if_crashed(client, run, log, done)
            except (httpx.HTTPError, ObjectNotFound):
                continue  # the server is away: check again later


def _set_running_if_crashed(client: SyncPrefectClient, run: UUID, log: Log, done: threading.Event) -> None:
    state = client.read_flow_run(run).state
    if state is not None and state.is_crashed() and not done.is_set():
        client.set_flow_run_state(run, Running(message="The run's process is alive: the server was away."), force=True)
        log.warning("the server marked this run Crashed although it is alive; set back to Running (%s)", state.message)
