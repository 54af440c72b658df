"""A bad line to an S3 server: an HTTP proxy that fails, delays, cuts or garbles the share of calls it is told to."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self

import aiohttp
from aiohttp import web
from yarl import URL

HANG_S = 60.0
SLOW_S = 0.4
MOST_BODY = 256 * 2**20
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "proxy-connection"}

# What can go wrong with a call, and how often one of them is drawn when a call is to fail.
FAULTS = {
    "500": 3,
    "503": 3,
    "reset before the server has it": 2,
    "answer lost": 2,  # the server has done it; the connection is reset
    "answer never comes": 1,  # the server has done it; the client runs into its time-out
    "answer cut": 2,  # half of the body, then a reset
}
ERRORS = {"500": ("InternalError", "We encountered an internal error."), "503": ("SlowDown", "Reduce your rate.")}


class BadLine:
    """Serve on a free port in a thread of its own, passing calls on to ``target``; leave to stop.

    ``rate`` is the share of calls that fail, ``garbled`` the share of object downloads whose bytes are changed,
    ``slow`` the share of calls that take their time. All may be set while it runs. ``faults`` counts what was done.
    """

    def __init__(self, target: str, seed: int | str) -> None:
        self.rate = self.garbled = self.slow = 0.0
        self.faults: Counter[str] = Counter()
        self.calls = 0
        self.url = ""
        self._target = target
        self._chance = random.Random(seed)
        self._ready, self._loop = threading.Event(), asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="bad-line", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(timeout=60):
            raise AssertionError("the bad line did not come up within 60 s")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(timeout=60)

    def _serve(self) -> None:
        logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # it tells of every client that has gone
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run())
        left = asyncio.all_tasks(self._loop)  # connections that nobody waits for any more
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    async def _run(self) -> None:
        self._over = asyncio.Event()
        async with self._running() as port:
            self.url = f"http://127.0.0.1:{port}"
            self._ready.set()
            await self._over.wait()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[int]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=20)
        connector = aiohttp.TCPConnector(limit=64)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False) as self._client:
            runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=1.0)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            try:
                yield runner.addresses[0][1]
            finally:
                await runner.cleanup()

    def _drawn(self, request: web.BaseRequest) -> str | None:
        self.calls += 1
        if self._chance.random() < self.rate:
            return self._chance.choices(list(FAULTS), list(FAULTS.values()))[0]
        # A call without a query on more than a bucket is an object's.
        is_object = request.method == "GET" and not request.query_string and request.path.count("/") > 1
        if is_object and self._chance.random() < self.garbled:
            return "garbled"
        return "slow" if self._chance.random() < self.slow else None

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        fault = self._drawn(request)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        body = await request.content.read(-1)
        if fault is not None:
            self.faults[fault] += 1
        if fault in ERRORS:
            return _refused(int(fault), *ERRORS[fault])
        if fault == "reset before the server has it":
            return _reset(request)
        if fault == "slow":
            await asyncio.sleep(SLOW_S)
        status, headers, answer = await self._passed_on(request, body)
        return await _FAILED.get(fault or "", _forward)(request, status, headers, answer)

    async def _passed_on(self, request: web.BaseRequest, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """The server's answer to the very same call: the signature covers path, query and Host as they came."""
        url = URL(self._target + request.raw_path, encoded=True)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        sent = [(name, value) for name, value in headers if name.lower() != "expect"]
        async with self._client.request(
            request.method,
            url,
            headers=sent,
            data=body if body or request.method in ("PUT", "POST") else None,
            allow_redirects=False,
        ) as answer:
            headers = [(n, v) for n, v in answer.headers.items() if n.lower() not in HOP_BY_HOP]
            return answer.status, headers, await answer.read()


def _refused(status: int, code: str, message: str) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return web.Response(status=status, text=text, content_type="application/xml")


def _reset(request: web.BaseRequest) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _forward(
    request: web.BaseRequest, status: int, headers: list[tuple[str, str]], body: bytes, cut: int | None = None
) -> web.StreamResponse:
    """The answer as it came; only the first ``cut`` bytes of its body, then a reset."""
    response = web.StreamResponse(status=status)
    for name, value in headers:
        response.headers.add(name, value)
    if request.method != "HEAD":
        response.headers["Content-Length"] = str(len(body))
    await response.prepare(request)
    if request.method != "HEAD" and status not in (204, 304):
        await response.write(body[:cut])
    if cut is not None:
        return _reset(request)
    await response.write_eof()
    return response


async def _lost(request: web.BaseRequest, *_: object) -> web.StreamResponse:
    return _reset(request)


async def _never(request: web.BaseRequest, *_: object) -> web.StreamResponse:
    await asyncio.sleep(HANG_S)
    return _reset(request)


async def _cut(
    request: web.BaseRequest, status: int, headers: list[tuple[str, str]], body: bytes
) -> web.StreamResponse:
    return await _forward(request, status, headers, body, cut=len(body) // 2)


async def _garbled(
    request: web.BaseRequest, status: int, headers: list[tuple[str, str]], body: bytes
) -> web.StreamResponse:
    if status in (200, 206) and body:
        middle = len(body) // 2
        body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    return await _forward(request, status, headers, body)


_FAILED: dict[str, Callable[..., Awaitable[web.StreamResponse]]] = {
    "answer lost": _lost,
    "answer never comes": _never,
    "answer cut": _cut,
    "garbled": _garbled,
}
