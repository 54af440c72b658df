"""The HTTP interface of a served model: chat completions, the list of models, health and metrics."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
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

from mirage_core.config import ProblemSettings
from mirage_core.errors import InputError, SettingsError
from mirage_core.serving.choices import Choice
from mirage_core.serving.guards import check_key, read_body
from mirage_core.serving.limits import Busy, RequestError
from mirage_core.serving.metrics import Metrics
from mirage_core.serving.page.routes import add_page
from mirage_core.serving.replies import Reply
from mirage_core.serving.server import Added, Asked, ModelServer, Place
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


def make_app(
    server: ModelServer, key: SecretStr | None, *, local: bool, problems: ProblemSettings | None = None
) -> FastAPI:
    """Return the application. ``key``: what clients must send as a bearer; ``local``: it is asked for as a loopback.

    ``problems``: those that the model was trained on, which its page draws alike.
    """

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

    add_page(app, server, key, problems or ProblemSettings())
    return app


async def _chat_completions(server: ModelServer, request: Request) -> Response:
    place = server.place()
    try:
        asked = await server.prepare(await read_body(request, server.limits))
    except ClientDisconnect:
        place.release()
        return Response(status_code=_CLIENT_GONE)
    except BaseException:
        place.release()
        raise
    if asked.chat.stream:
        events = _events(server, asked, place)
        begun = _resumed(await anext(events), events)
        return StreamingResponse(begun, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    answer = asyncio.ensure_future(_whole(server, asked, place))
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


async def _disconnected(request: Request) -> None:
    """Wait until the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _whole(server: ModelServer, asked: Asked, place: Place) -> str:
    """The JSON of whole answers."""
    choices = server.choices(asked.chat)
    pieces: list[list[Piece]] = [[] for _ in choices]
    async with aclosing(server.answer(asked, choices, place)) as steps:
        async for added in steps:
            for one in added:
                pieces[one.number] += one.pieces
    trajectories = [server.trajectory(choice).model_dump() for choice in choices] if asked.chat.trajectory else []
    return _reply(server, asked).complete(len(asked.prompt.ids), choices, pieces, trajectories)


def _reply(server: ModelServer, asked: Asked) -> Reply:
    chat = asked.chat
    return Reply(server.name, log_probs=chat.logprobs, spans=chat.spans, film=chat.film)


async def _resumed(first: str, events: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    """``first`` and the other events of a generator that has begun: it holds a place, which only its end frees."""
    async with aclosing(events):
        yield first
        async for event in events:
            yield event


async def _events(server: ModelServer, asked: Asked, place: Place) -> AsyncGenerator[str, None]:
    """The events of a stream; an error in its middle is an event, after which nothing comes."""
    choices, reply, ended = server.choices(asked.chat), _reply(server, asked), False
    try:
        async with aclosing(server.answer(asked, choices, place)) as steps:
            for number in range(len(choices)):
                yield reply.first(number)
            async for added in steps:
                for one in added:
                    for event in _added_events(reply, one, choices[one.number]):
                        yield event
        if asked.chat.include_usage:
            yield reply.total(len(asked.prompt.ids), choices)
        yield "data: [DONE]\n\n"
        ended = True
    except InputError as error:
        ended = True
        yield f"data: {json.dumps(error_body(error))}\n\n"
    finally:
        place.release()
        if not ended:
            server.metrics.cancelled.inc()


def _added_events(reply: Reply, added: Added, choice: Choice) -> Iterator[str]:
    """The events of what a step adds to a choice."""
    for piece in added.pieces:
        yield reply.added(added.number, piece, choice.log_probs())
    if added.latent is not None and (event := reply.latent(added.number, choice)):
        yield event
    if choice.finish_reason is not None:
        yield reply.last(added.number, choice, choice.log_probs())


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
