"""The addresses of the page: ``/`` is public, what it asks for needs the key, as everything else does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, SecretStr, ValidationError
from starlette.concurrency import run_in_threadpool

from mirage_core.benchmarks import vsp_planning
from mirage_core.config import ProblemSettings
from mirage_core.serving.guards import check_key, read_body
from mirage_core.serving.page.document import document
from mirage_core.serving.page.mazes import (
    LEVELS,
    FilmRequest,
    MazeRequest,
    QuestionRequest,
    Task,
    VerdictRequest,
    asked_problem,
    drawn_maze,
    filmed,
    verdict,
)
from mirage_core.serving.requests import invalid, parse_json
from mirage_core.serving.server import ModelServer

Asked = TypeVar("Asked", bound=BaseModel)


def add_page(app: FastAPI, server: ModelServer, key: SecretStr | None, problems: ProblemSettings) -> None:
    """Add the page to an application. ``problems``: the recipe's, which say how mazes look."""
    page, encoder = document(), server.generator.encoder

    @app.get("/")
    async def index() -> Response:
        """The page itself, which holds nothing of the model."""
        return HTMLResponse(page.html, headers=page.headers)

    @app.get("/page/about")
    async def about(request: Request) -> Response:
        """What the page offers for this model."""
        check_key(request, key)
        return JSONResponse(
            {
                "name": server.name,
                "film": server.imagines,
                "exchange": server.exchanges,
                "levels": LEVELS,
                "task": _first_task(server.generator.model.about),
            }
        )

    async def answered(request: Request, kind: type[Asked], answer: Callable[[Asked], dict[str, Any]]) -> Response:
        check_key(request, key)
        asked = _parsed(await read_body(request, server.limits), kind)
        return JSONResponse(await run_in_threadpool(answer, asked))

    @app.post("/page/maze")
    async def maze(request: Request) -> Response:
        """A maze: drawn, or read off a picture."""
        return await answered(request, MazeRequest, lambda asked: drawn_maze(asked, problems, server.limits))

    @app.post("/page/question")
    async def question(request: Request) -> Response:
        """The parts of the message that asks a task's question."""
        return await answered(request, QuestionRequest, lambda asked: {"parts": encoder.parts(asked_problem(asked))})

    @app.post("/page/verdict")
    async def judged(request: Request) -> Response:
        """Whether an answer is right, and its plan drawn."""
        return await answered(request, VerdictRequest, lambda asked: verdict(asked, problems))

    @app.post("/page/film")
    async def film(request: Request) -> Response:
        """The true film beside the latents of an answer: whose plan it shows, and a frame a latent."""
        check_key(request, key)
        asked = _parsed(await read_body(request, server.limits), FilmRequest)
        found = await run_in_threadpool(filmed, asked, problems)
        frames = [] if found is None else await server.true_film(found.problem, asked.latents)
        return JSONResponse({"plan": None if found is None else found.plan, "frames": frames})


def _first_task(about: Mapping[str, Any]) -> str:
    """The task of the page that a model was trained on last, by its mirage.json; planning where it does not say."""
    counts = [training.get("data", {}).get("examples", {}).get("counts", {}) for training in about.get("history", ())]
    trained = [name for names in reversed(counts) for name in names if name in get_args(Task)]
    return trained[0] if trained else vsp_planning.NAME


def _parsed(body: bytes, kind: type[Asked]) -> Asked:
    """The request of a JSON body. RequestError for another."""
    try:
        return kind.model_validate(parse_json(body))
    except ValidationError as error:
        raise invalid(error) from error
