"""The HTTP interface of a served model: chat completions, the list of models, health and metrics."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from openai.types import Model
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mirage_core.errors import InputError, SettingsError
from mirage_core.latent.examples import EncodedPrompt
from mirage_core.serving.limits import Busy, RequestError, ServingLimits
from mirage_core.serving.metrics import Metrics
from mirage_core.serving.replies import Reply
from mirage_core.serving.requests import ChatRequest
from mirage_core.serving.server import ModelServer, Place
from mirage_core.serving.texts import Piece

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost")
_CLIENT_GONE = 499


def check_host(host: str, key: SecretStr | None) -> None:
    """SettingsError for a server that others can reach without a key."""
    if key is None and host not in LOOPBACK:
        raise SettingsError(
            f"got --host {host} without a key, expected {' or '.join(LOOPBACK)}: anybody who reaches another address "
            "could use the model, so give a key with MIRAGE_API_KEY or --api-key-file"
        )


def make_app(server: ModelServer, key: SecretStr | None, *, local: bool) -> FastAPI:
    """Return the application. ``key``: what clients must send as a bearer; ``local``: it is asked for as a loopback."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        server.engine.start()
        yield
        server.stop()

    app = FastAPI(title="mirage serve", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(InputError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _failed)
    if local:  # a page of the internet cannot ask in the name of its own host
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))
    app.add_middleware(_Counted, metrics=server.metrics)

    @app.get("/health")
    async def health() -> Response:
        """200 while the engine takes requests."""
        alive = server.engine.alive
        return JSONResponse({"status": "ok" if alive else "down"}, 200 if alive else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """For Prometheus."""
        check_key(request, key)
        return Response(server.metrics.page(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        """The one model."""
        check_key(request, key)
        model = Model(id=server.name, object="model", created=server.created, owned_by="mirage")
        card = {**model.model_dump(exclude_unset=True), "mirage": server.card().model_dump()}
        return JSONResponse({"object": "list", "data": [card]})

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        """Answers to a conversation."""
        check_key(request, key)
        return await _chat_completions(server, request)

    return app


def check_key(request: Request, key: SecretStr | None) -> None:
    """RequestError (401) for a request without the key."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if key is None:
        return
    same = hmac.compare_digest(given.strip().encode(), key.get_secret_value().encode())
    if scheme.lower() != "bearer" or not same:
        raise RequestError("expected the server's key: Authorization: Bearer KEY", status=401)


async def _chat_completions(server: ModelServer, request: Request) -> Response:
    place = server.place()
    try:
        body = await _read_body(request, server.limits)
        chat, prompt = await server.prepare(body)
    except ClientDisconnect:
        place.release()
        return Response(status_code=_CLIENT_GONE)
    except BaseException:
        place.release()
        raise
    if chat.stream:
        events = _events(server, chat, prompt, place)
        begun = _resumed(await anext(events), events)
        return StreamingResponse(begun, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    answer = asyncio.ensure_future(_whole(server, chat, prompt, place))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return Response(answer.result(), media_type="application/json")
        server.metrics.cancelled.inc()
        return Response(status_code=_CLIENT_GONE)
    finally:
        for task in (answer, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):  # its error, if any, was raised above
                await task


async def _read_body(request: Request, limits: ServingLimits) -> bytes:
    """The body. RequestError for one of another type, too large, or too slow."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which a page of another origin cannot send without asking first
        raise RequestError(f"got the content type {kind[:100]!r}, expected application/json", status=415)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_s):
            async for part in request.stream():
                size += len(part)
                if size > limits.body_bytes:
                    raise RequestError(f"the body has more than {limits.body_bytes} bytes (--max-body-mb)", status=413)
                parts.append(part)
    except TimeoutError as error:
        raise RequestError(f"the body did not arrive within {limits.body_s} seconds", status=408) from error
    return b"".join(parts)


async def _disconnected(request: Request) -> None:
    """Wait until the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _whole(server: ModelServer, chat: ChatRequest, prompt: EncodedPrompt, place: Place) -> str:
    """The JSON of whole answers."""
    choices = server.choices(chat)
    pieces: list[list[Piece]] = [[] for _ in choices]
    async with aclosing(server.answer(chat, prompt, choices, place)) as steps:
        async for added in steps:
            for number, more in added:
                pieces[number] += more
    trajectories = [server.trajectory(choice).model_dump() for choice in choices] if chat.trajectory else []
    return Reply(server.name, log_probs=chat.logprobs).complete(len(prompt.ids), choices, pieces, trajectories)


async def _resumed(first: str, events: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """``first`` and the other events of a generator that has begun: it holds a place, which only its end frees."""
    async with aclosing(events):
        yield first
        async for event in events:
            yield event


async def _events(
    server: ModelServer, chat: ChatRequest, prompt: EncodedPrompt, place: Place
) -> AsyncGenerator[str, None]:
    """The events of a stream; an error in its middle is an event, after which nothing comes."""
    choices, reply, ended = server.choices(chat), Reply(server.name, log_probs=chat.logprobs), False
    try:
        async with aclosing(server.answer(chat, prompt, choices, place)) as steps:
            for number in range(len(choices)):
                yield reply.first(number)
            async for added in steps:
                for number, pieces in added:
                    for piece in pieces:
                        yield reply.added(number, piece, choices[number].log_probs())
                    if choices[number].finish_reason is not None:
                        yield reply.last(number, choices[number], choices[number].log_probs())
        if chat.include_usage:
            yield reply.total(len(prompt.ids), choices)
        yield "data: [DONE]\n\n"
        ended = True
    except InputError as error:
        ended = True
        yield f"data: {json.dumps(error_body(error))}\n\n"
    finally:
        place.release()
        if not ended:
            server.metrics.cancelled.inc()


def error_body(error: Exception) -> dict[str, Any]:
    """Return an error as OpenAI's clients read it."""
    status = getattr(error, "status", 400)
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": str(error), "type": kind, "param": getattr(error, "param", None), "code": status}}


async def _refused(_: Request, error: Exception) -> Response:
    """A request that is refused."""
    status = getattr(error, "status_code", getattr(error, "status", 400))
    if isinstance(error, HTTPException):
        error = RequestError(str(error.detail), status=status)
    return JSONResponse(error_body(error), status, {"Retry-After": "1"} if isinstance(error, Busy) else None)


async def _failed(_: Request, error: Exception) -> Response:
    """An error of the server, whose traceback is in its log only."""
    logger.error("a request failed", exc_info=error)
    failure = RequestError("the server failed, its log tells why", status=500)
    return JSONResponse(error_body(failure), 500)


class _Counted:
    """Counts responses by their status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(str(message["status"])).inc()
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)
