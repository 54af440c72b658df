"""The GPU as a global concurrency limit: a stage that runs a model acquires a slot, renews its lease, and releases it.

Prefect's own ``concurrency(..., strict=True)`` cancels a training when three renewals fail, and nothing retries it; not
strict, it continues without the slot. Here the lease is renewed as long as the work lasts, the server may be away for a
while, and a slot that another run has taken meanwhile ends the work with a transient error.
"""

from __future__ import annotations

import contextvars
import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.exceptions import ObjectAlreadyExists

from mirage_core.errors import MirageError
from tasks.leases import LeaseFile, abandoned_leases
from tasks.paths import home

LIMIT = "gpu"
LEASE_S = 120.0
"""A holder whose machine died blocks the others this long, plus at most the server's check interval (15 s)."""
RENEW_S = 15.0
JOIN_S = 5.0
POLL_S = 3.0
LOG_INTERVAL_S = 60.0
FAST_RETRIES, FAST_RETRY_S = 20, 0.05
_LOCKED, _GONE, _UNAVAILABLE = 423, 410, 503
_INCREMENT = "/v2/concurrency_limits/increment-with-lease"

Log = logging.Logger | logging.LoggerAdapter[Any]


class GpuSlotLost(MirageError):
    """The server gave the slot to another run while this run could not reach it."""

    transient = True


class GpuSlot:
    """One slot of the limit ``gpu``, which is created with one slot where the server has none."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lost = threading.Event()

    @contextmanager
    def acquired(self) -> Iterator[None]:
        """Wait for a slot; inside the block it is acquired."""
        with get_client(sync_client=True) as client, LeaseFile(_folder()) as lease_file:
            lease_file.write(self._wait(client))
            done = threading.Event()
            # Context variables hold the run's settings, such as the server.
            context = contextvars.copy_context()
            renewer = threading.Thread(
                target=context.run, args=(self._renew, lease_file, done), name="gpu-lease", daemon=True
            )
            renewer.start()
            try:
                yield
            finally:
                done.set()
                renewer.join(timeout=JOIN_S)
                _release(client, lease_file.lease)

    def check(self) -> None:
        """Raise GpuSlotLost when another run may have the slot."""
        if self.is_lost:
            raise GpuSlotLost("the slot of the limit gpu was lost while the server was away; the stage waits again")

    @property
    def is_lost(self) -> bool:
        """Whether another run may have the slot."""
        return self._lost.is_set()

    def _wait(self, client: SyncPrefectClient) -> UUID:
        logged = float("-inf")
        while (lease := _acquire(client)) is None:
            for abandoned in abandoned_leases(_folder()):
                self._log.info("the process that held the GPU was killed: its slot is free again")
                _release(client, abandoned)
            if time.monotonic() - logged >= LOG_INTERVAL_S:
                logged = time.monotonic()
                self._log.info("waiting for the GPU: other runs hold the limit (prefect gcl inspect %s)", LIMIT)
            time.sleep(POLL_S * random.uniform(0.5, 1.5))
        return lease

    def _renew(self, lease_file: LeaseFile, done: threading.Event) -> None:
        with get_client(sync_client=True) as client:
            while not done.wait(RENEW_S):
                try:
                    client.renew_concurrency_lease(lease_file.lease, LEASE_S)
                except httpx.HTTPStatusError as error:
                    if error.response.status_code == _GONE and not self._reacquire(client, lease_file, done):
                        return
                except httpx.HTTPError as error:
                    self._log.warning("the lease of the GPU could not be renewed, retrying: %s", error)

    def _reacquire(self, client: SyncPrefectClient, lease_file: LeaseFile, done: threading.Event) -> bool:
        """Acquire a slot again after the lease has ended; return False where another run has it, or the work is done.

        A slow answer may come when nobody waits for it any more: that slot is released at once.
        """
        lease = _acquire(client)
        if lease is None:
            self._lost.set()
            return False
        if done.is_set():
            _release(client, lease)
            return False
        lease_file.write(lease)
        return True


@dataclass(slots=True)
class _RunSlot:
    """The slot of a run while stages use it."""

    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    slot: GpuSlot | None = None
    resources: ExitStack = field(default_factory=ExitStack)


_RUN_SLOTS: dict[str, _RunSlot] = {}
_RUN_SLOTS_LOCK = threading.Lock()


class SharedGpuSlot:
    """The one slot of a stage's run: its first stage acquires it, those beside it share it, the last releases it."""

    def __init__(self, run: str, log: Log) -> None:
        self._run, self._log = run, log
        self._slot: GpuSlot | None = None

    @contextmanager
    def acquired(self) -> Iterator[None]:
        """Wait for the run's slot; inside the block it is acquired."""
        with _RUN_SLOTS_LOCK:
            shared = _RUN_SLOTS.setdefault(self._run, _RunSlot())
            shared.users += 1
        try:
            with shared.lock:
                if shared.slot is None or shared.slot.is_lost:
                    shared.resources.close()
                    shared.slot = None
                    slot = GpuSlot(self._log)
                    shared.resources.enter_context(slot.acquired())
                    shared.slot = slot
                self._slot = shared.slot
            yield
        finally:
            with _RUN_SLOTS_LOCK:
                shared.users -= 1
                last = shared.users == 0
                if last:
                    del _RUN_SLOTS[self._run]
            if last:
                shared.resources.close()

    def check(self) -> None:
        """Raise GpuSlotLost when another run may have the slot."""
        if self._slot is not None:
            self._slot.check()


def ensure_limit(client: SyncPrefectClient, slots: int = 1) -> bool:
    """Create the limit where the server has none; leave an existing one as it is. Return True if created."""
    with suppress(ObjectAlreadyExists):
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=LIMIT, limit=slots, active=True))
        return True
    return False


def _acquire(client: SyncPrefectClient) -> UUID | None:
    """Acquire a slot and return its lease; None while all are taken."""
    try:
        answer = _request_lease(client).json()
        if not answer["limits"]:
            ensure_limit(client)
            answer = _request_lease(client).json()
    except httpx.HTTPStatusError as error:
        if error.response.status_code == _LOCKED:
            return None
        raise
    return UUID(answer["lease_id"])


def _request_lease(client: SyncPrefectClient) -> httpx.Response:
    """Request a slot; HTTPStatusError with 423 while all are taken.

    A server on SQLite answers 503 while something else writes, and Prefect's client then sleeps two seconds: httpx's
    own ``send`` retries sooner. Every other error is left to the retries of Prefect's client.
    """
    http, body = client._client, {"names": [LIMIT], "slots": 1, "mode": "concurrency", "lease_duration": LEASE_S}
    for _ in range(FAST_RETRIES):
        try:
            response = httpx.Client.send(http, http.build_request("POST", _INCREMENT, json=body))
        except httpx.TransportError:
            break
        if response.status_code in (200, _LOCKED):
            return response.raise_for_status()
        if response.status_code != _UNAVAILABLE:
            break
        time.sleep(FAST_RETRY_S * random.uniform(0.5, 1.5))
    return client.increment_concurrency_slots_with_lease([LIMIT], 1, "concurrency", LEASE_S)


def _release(client: SyncPrefectClient, lease: UUID) -> None:
    with suppress(httpx.HTTPError):  # the lease ends by itself
        client.release_concurrency_slots_with_lease(lease)


def _folder() -> Path:
    return home() / "leases"
