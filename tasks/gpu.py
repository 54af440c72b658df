"""The GPU as a global concurrency limit: a stage that runs a model waits for the slot, holds it, and gives it back.

Prefect's own ``concurrency(..., strict=True)`` gives up a training when three renewals fail, by a cancellation that no
retry follows; not strict, it goes on without the slot. Here the lease is renewed for as long as the work lasts, a
server that is away is waited for, and a slot that was lost to another run ends the work by a transient error.
"""

from __future__ import annotations

import contextvars
import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.exceptions import ObjectAlreadyExists

from mirage_core.errors import MirageError
from tasks.leases import LeaseNote, left_behind
from tasks.paths import home

LIMIT = "gpu"
LEASE_S = 120.0
"""A holder whose machine died blocks the others for so long, and at most the server's look (15 s) longer."""
RENEW_S = 15.0
LOOK_S = 3.0
SAY_EVERY_S = 60.0
QUICK_TRIES, QUICK_S = 20, 0.05
_TAKEN, _GONE, _BUSY = 423, 410, 503
_INCREMENT = "/v2/concurrency_limits/increment-with-lease"

Log = logging.Logger | logging.LoggerAdapter[Any]


class GpuSlotLost(MirageError):
    """The server gave the slot to another run while this one could not reach it."""

    transient = True


class GpuSlot:
    """One slot of the limit ``gpu``; the limit is made, with one slot, where the server has none of that name."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lost = threading.Event()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the slot and hold it inside the block."""
        with get_client(sync_client=True) as client, LeaseNote(_folder()) as note:
            note.write(self._wait(client))
            done = threading.Event()
            # The settings of the run (which server) live in context variables.
            keep = contextvars.copy_context()
            keeper = threading.Thread(target=keep.run, args=(self._keep, note, done), name="gpu-lease", daemon=True)
            keeper.start()
            try:
                yield
            finally:
                done.set()
                keeper.join(timeout=5)
                _release(client, note.lease)

    def check(self) -> None:
        """GpuSlotLost when another run may have the slot by now."""
        if self._lost.is_set():
            raise GpuSlotLost("the slot of the limit gpu was lost while the server was away; it is waited for anew")

    def _wait(self, client: SyncPrefectClient) -> UUID:
        spoken = float("-inf")
        while (lease := _taken(client)) is None:
            for dead in left_behind(_folder()):
                self._log.info("the process that held the GPU was killed: its slot is free again")
                _release(client, dead)
            if time.monotonic() - spoken >= SAY_EVERY_S:
                spoken = time.monotonic()
                self._log.info("waiting for the GPU: other runs hold the limit (prefect gcl inspect %s)", LIMIT)
            time.sleep(LOOK_S * random.uniform(0.5, 1.5))
        return lease

    def _keep(self, note: LeaseNote, done: threading.Event) -> None:
        with get_client(sync_client=True) as client:
            while not done.wait(RENEW_S):
                try:
                    client.renew_concurrency_lease(note.lease, LEASE_S)
                except httpx.HTTPStatusError as error:
                    if error.response.status_code == _GONE and not self._taken_anew(client, note):
                        return
                except httpx.HTTPError as error:
                    self._log.warning("the lease of the GPU could not be renewed, tried again: %s", error)

    def _taken_anew(self, client: SyncPrefectClient, note: LeaseNote) -> bool:
        """The lease had ended: take the slot again where nobody was quicker."""
        found = _taken(client)
        if found is None:
            self._lost.set()
            return False
        note.write(found)
        return True


def ensure_limit(client: SyncPrefectClient, slots: int = 1) -> bool:
    """Make the limit where the server has none; one that somebody has set otherwise is left alone. True if made."""
    with suppress(ObjectAlreadyExists):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=LIMIT, limit=slots, active=True))
        return True
    return False


def _taken(client: SyncPrefectClient) -> UUID | None:
    """The lease of a slot, None while all are taken."""
    try:
        answer = _asked(client).json()
        if not answer["limits"]:
            ensure_limit(client)
            answer = _asked(client).json()
    except httpx.HTTPStatusError as error:
        if error.response.status_code == _TAKEN:
            return None
        raise
    return UUID(answer["lease_id"])


def _asked(client: SyncPrefectClient) -> httpx.Response:
    """Ask for a slot; HTTPStatusError with 423 while all are taken.

    A server on SQLite answers 503 at once when something else writes, and Prefect's client sleeps two seconds then:
    httpx's own ``send`` asks again sooner. Anything else is left to Prefect's client and its patience.
    """
    raw, body = client._client, {"names": [LIMIT], "slots": 1, "mode": "concurrency", "lease_duration": LEASE_S}
    for _ in range(QUICK_TRIES):
        try:
            answer = httpx.Client.send(raw, raw.build_request("POST", _INCREMENT, json=body))
        except httpx.TransportError:
            break
        if answer.status_code in (200, _TAKEN):
            return answer.raise_for_status()
        if answer.status_code != _BUSY:
            break
        time.sleep(QUICK_S * random.uniform(0.5, 1.5))
    return client.increment_concurrency_slots_with_lease([LIMIT], 1, "concurrency", LEASE_S)


def _release(client: SyncPrefectClient, lease: UUID) -> None:
    with suppress(httpx.HTTPError):  # it ends by itself
        client.release_concurrency_slots_with_lease(lease)


def _folder() -> Path:
    return home() / "leases"
