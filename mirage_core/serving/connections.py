"""Connections whose requests have to come in time: uvicorn waits for the head of one as long as a client likes."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class TimelyH11Protocol(H11Protocol):
    """Closes a connection that owes the head of a request, or a body that nobody waits for, for too long.

    Bodies that are waited for are limited where they are read (guards.py).
    """

    patience_s = 15.0
    """Seconds from the first byte of a request, or from the begin of the connection."""
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See whether a request has begun, or is there."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for what is left of a request that has its answer already."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Wait for what the client owes, from when it began to; not at all for what it does not owe."""
        begun = self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete
        if self.conn.their_state is not h11.IDLE and not begun:
            self._stop_waiting()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(self.patience_s, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
