"""What the page asks for: mazes in the benchmark's own look, its questions word for word, and verdicts on answers."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from mirage_core import benchmarks
from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.config import ProblemSettings
from mirage_core.errors import DataError
from mirage_core.image_files import read_rgb
from mirage_core.reports.drawings import NEUTRAL_COLOUR, RIGHT_COLOUR, WRONG_COLOUR, data_uri, draw_plan
from mirage_core.serving.limits import RequestError, ServingLimits
from mirage_core.serving.requests import read_picture
from mirage_core.types import Problem
from mirage_core.worlds.maze import (
    Maze,
    maze_from_rows,
    picture_bytes,
    random_maze,
    read_maze,
    render,
    shortest_path,
    walk,
)

LEVELS = (3, 4, 5, 6)
Task = Literal["vsp-planning", "vsp-reasoning"]
Plan = Field("", pattern="^[UDLR]*$", max_length=64)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MazeRequest(_Strict):
    """One of them: the ``level`` of a random maze, a ``map`` to draw, or a ``picture`` to read."""

    level: StrictInt | None = Field(None, ge=LEVELS[0], le=LEVELS[-1])
    map: list[list[StrictInt]] | None = None
    picture: StrictStr | None = None


class QuestionRequest(_Strict):
    """The question of a task; ``plan``: the moves that reasoning is about."""

    task: Task
    plan: StrictStr = Plan


class VerdictRequest(_Strict):
    """An answer (``output``) to the question of a task about a map."""

    task: Task
    map: list[list[StrictInt]]
    plan: StrictStr = Plan
    output: StrictStr = Field(max_length=100_000)


class FilmRequest(VerdictRequest):
    """An answer to the question of a task about a map, and how many ``latents`` it has."""

    latents: StrictInt = Field(ge=1, le=4096)


@dataclass(frozen=True, slots=True)
class Filmed:
    """The problem whose film is true of an answer, and whose plan that is: ``asked``, ``answered`` or ``shortest``."""

    problem: Problem
    plan: Literal["asked", "answered", "shortest"]


def drawn_maze(asked: MazeRequest, settings: ProblemSettings, limits: ServingLimits) -> dict[str, Any]:
    """Return a picture, its map, and a shortest plan, None where no way leads to the goal.

    Of a picture of the user's only the map is told, None where it shows none. RequestError for a map that is none, and
    for a picture that is broken.
    """
    if (asked.level is not None) + (asked.map is not None) + (asked.picture is not None) != 1:
        raise RequestError("expected one of level, map and picture")
    if asked.picture is not None:
        maze = _read(asked.picture, settings.cell_px, limits)
        return {"map": None, "plan": None} if maze is None else {"map": maze.rows(), "plan": shortest_path(maze)}
    if asked.map is not None:
        maze = maze_from_rows(asked.map)
    else:
        maze = random_maze(np.random.default_rng(), asked.level or LEVELS[0], settings.hole_probability)
    return {"map": maze.rows(), "plan": shortest_path(maze), "picture": _uri(render(maze, settings.cell_px))}


def asked_problem(asked: QuestionRequest) -> Problem:
    """Return a problem that asks the question of a task; RequestError where the question lacks its plan."""
    _check_plan(asked)
    smallest = Maze(((1, 0, 0), (0, 0, 0), (0, 0, 2)))  # a question says nothing of its map
    return _problem(asked.task, smallest, asked.plan)


def verdict(asked: VerdictRequest, settings: ProblemSettings) -> dict[str, Any]:
    """Judge an answer by the benchmark's own rule, and draw the plan that it is about, as far as it goes."""
    maze = maze_from_rows(asked.map)
    problem = _problem(asked.task, maze, asked.plan)
    score = benchmarks.get(asked.task).score(problem, asked.output, benchmarks.get(asked.task).rules[0])
    plan = asked.plan if asked.task == vsp_reasoning.NAME else score.parsed or ""
    walked = walk(maze, plan, stop_at_goal=asked.task == vsp_reasoning.NAME)
    colour = {"success": RIGHT_COLOUR, "hole": WRONG_COLOUR, "safe": NEUTRAL_COLOUR}[walked.outcome]
    drawn = draw_plan(render(maze, settings.cell_px), walked.cells, (maze.level, maze.level), colour)
    return {
        "correct": score.correct,
        "parsed": score.parsed,
        "outcome": walked.outcome,
        "picture": _uri(drawn) if plan else None,
    }


def filmed(asked: FilmRequest, settings: ProblemSettings) -> Filmed | None:
    """Return the problem whose film an answer is held to; None where no way leads to the goal.

    Reasoning: the plan that is asked about. Planning: the plan of the answer where it is as short as any that reaches
    the goal, else such a one. RequestError where the question lacks its plan.
    """
    maze = maze_from_rows(asked.map)
    image = picture_bytes(render(maze, settings.cell_px))
    if asked.task == vsp_reasoning.NAME:
        _check_plan(asked)
        return Filmed(replace(_problem(asked.task, maze, asked.plan), images=(image,)), "asked")
    problem, shortest = replace(_problem(asked.task, maze, ""), images=(image,)), shortest_path(maze)
    if not shortest:
        return None
    score = benchmarks.get(asked.task).score(problem, asked.output, benchmarks.get(asked.task).rules[0])
    if score.correct and score.parsed is not None and len(score.parsed) == len(shortest):
        return Filmed(replace(problem, answer=score.parsed), "answered")
    return Filmed(problem, "shortest")


def _check_plan(asked: QuestionRequest | VerdictRequest) -> None:
    """RequestError for a question about a plan without one."""
    if asked.task == vsp_reasoning.NAME and not asked.plan:
        raise RequestError("this task is about a plan: give its moves, for example RRD", param="plan")


def _problem(task: Task, maze: Maze, plan: str) -> Problem:
    if task == vsp_planning.NAME:
        return vsp_planning.make_problem("page", "test", maze, b"", answer=shortest_path(maze) or "")
    return vsp_reasoning.make_problem("page", "test", maze, b"", plan, vsp_reasoning.answer_of(maze, plan))


def _read(uri: str, cell_px: int, limits: ServingLimits) -> Maze | None:
    """The maze that a picture shows, if it is one of the benchmark's look."""
    data = read_picture(uri, limits, "picture")
    try:
        image = read_rgb(data, "the picture", max_pixels=limits.pixels)
    except DataError as error:
        raise RequestError(str(error), param="picture") from error
    with suppress(DataError):
        return read_maze(image, cell_px)
    return None


def _uri(image: Image.Image) -> str:
    return data_uri(picture_bytes(image), "png")
