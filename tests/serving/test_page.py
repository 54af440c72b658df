"""The page and what it asks for, without a browser."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pydantic import SecretStr

from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.config import ProblemSettings
from mirage_core.generation.generator import Generator
from mirage_core.serving.app import make_app
from mirage_core.serving.limits import ServingLimits
from mirage_core.serving.server import ModelServer
from mirage_core.types import Problem
from mirage_core.worlds.maze import Maze, maze_from_rows, picture_bytes, read_maze, render, shortest_path
from tests.serving.test_requests import picture

MAZE = Maze(((1, 0, -1), (0, 0, 0), (-1, 0, 2)))


@pytest.fixture
def server(generator: Generator) -> ModelServer:
    return ModelServer(generator, "m", ServingLimits(rows=2, choices=2))


@pytest.fixture
def client(server: ModelServer) -> Iterator[TestClient]:
    with TestClient(make_app(server, None, local=False, problems=ProblemSettings(cell_px=32))) as made:
        yield made


def shown(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))).convert("RGB")


def test_the_page_holds_all_that_it_needs_and_may_load_nothing(client: TestClient) -> None:
    reply = client.get("/")
    assert reply.headers["content-type"].startswith("text/html")
    rules = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", reply.text, re.DOTALL)
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
    assert not re.search(r"\b(src|href)=\"(?!data:|#)", reply.text)
    assert not re.search(r"\s(on\w+|style)=", reply.text.split("<script>")[0].split("</style>")[1])


def test_the_page_is_public_and_nothing_else_of_it(server: ModelServer) -> None:
    with TestClient(make_app(server, SecretStr("k"), local=False)) as client:
        assert client.get("/").status_code == 200
        assert client.get("/page/about").status_code == 401
        asked = [client.post(f"/page/{name}", json={}) for name in ("maze", "question", "verdict", "film")]
        assert {reply.status_code for reply in asked} == {401}
        bearer = {"Authorization": "Bearer k"}
        assert client.get("/page/about", headers=bearer).json() == {
            "name": "m", "film": False, "exchange": True, "levels": [3, 4, 5, 6], "task": "vsp-planning",
        }  # fmt: skip


def test_the_task_that_a_model_was_trained_on_comes_first(client: TestClient, server: ModelServer) -> None:
    counts = {"vsp-reasoning": {"train": 8}}
    server.generator.model.about["history"] = [{}, {"data": {"examples": {"counts": counts}}}]
    try:
        assert client.get("/page/about").json()["task"] == "vsp-reasoning"
    finally:
        del server.generator.model.about["history"]


@pytest.mark.parametrize("level", [3, 6])
def test_mazes_are_drawn_as_the_recipe_draws_them(client: TestClient, level: int) -> None:
    found = client.post("/page/maze", json={"level": level}).json()
    image = shown(found["picture"])
    assert image.size == (32 * level, 32 * level)
    assert read_maze(image, 32).rows() == found["map"]
    assert found["plan"] == shortest_path(maze_from_rows(found["map"]))
    again = client.post("/page/maze", json={"map": found["map"]}).json()
    assert again == found


def test_a_picture_of_the_users_is_read_where_it_is_a_maze(client: TestClient) -> None:
    uri = "data:image/png;base64," + base64.b64encode(picture_bytes(render(MAZE, 32))).decode()
    assert client.post("/page/maze", json={"picture": uri}).json() == {"map": MAZE.rows(), "plan": shortest_path(MAZE)}
    assert client.post("/page/maze", json={"picture": picture()}).json() == {"map": None, "plan": None}


@pytest.mark.parametrize("task", [vsp_planning.NAME, vsp_reasoning.NAME])
def test_questions_are_those_of_the_benchmark(client: TestClient, generator: Generator, task: str) -> None:
    """What the page sends is encoded as the problem is in evaluation."""
    image = picture_bytes(render(MAZE))
    if task == vsp_planning.NAME:
        problem: Problem = vsp_planning.make_problem("p", "test", MAZE, image, answer="RDRD")
    else:
        problem = vsp_reasoning.make_problem("p", "test", MAZE, image, "RDD", "C")
    parts = client.post("/page/question", json={"task": task, "plan": "RDD"}).json()["parts"]
    pixels = generator.encoder.pixels([image], "a picture")
    found = generator.encoder.conversation([{"role": "user", "content": parts}], *pixels)
    assert found.ids.tolist() == generator.encoder.prompt(problem).ids.tolist()


@pytest.mark.parametrize(
    ("asked", "correct", "parsed", "outcome"),
    [
        ({"task": "vsp-planning", "output": "\\boxed{R,D,D,R}"}, True, "RDDR", "success"),
        ({"task": "vsp-planning", "output": "\\boxed{R,R}"}, False, "RR", "hole"),
        ({"task": "vsp-planning", "output": "hm"}, False, None, "safe"),
        ({"task": "vsp-reasoning", "output": "\\boxed{C}", "plan": "RD"}, True, "C", "safe"),
        ({"task": "vsp-reasoning", "output": "\\boxed{A}", "plan": "RR"}, False, "A", "hole"),
    ],
)
def test_answers_are_judged_by_the_benchmark_and_their_plans_drawn(
    client: TestClient, asked: dict[str, Any], correct: bool, parsed: str | None, outcome: str
) -> None:
    found = client.post("/page/verdict", json={**asked, "map": MAZE.rows()}).json()
    assert (found["correct"], found["parsed"], found["outcome"]) == (correct, parsed, outcome)
    if parsed is None:
        assert found["picture"] is None
    else:
        assert shown(found["picture"]).size == (96, 96)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("maze", {}),
        ("maze", {"level": 3, "map": MAZE.rows()}),
        ("maze", {"level": 7}),
        ("maze", {"level": True}),
        ("maze", {"map": [[1, 2], [0, 0]]}),
        ("maze", {"map": [[1, 1, 0], [0, 0, 0], [0, 0, 2]]}),
        ("maze", {"picture": "data:image/png;base64,iVBORw0KGgo="}),
        ("maze", {"picture": "file:///etc/passwd"}),
        ("question", {"task": "vsp-reasoning"}),
        ("question", {"task": "vsp-planning", "plan": "RX"}),
        ("question", {"task": "jigsaw"}),
        ("verdict", {"task": "vsp-planning", "map": MAZE.rows()}),
        ("verdict", {"task": "vsp-planning", "map": [], "output": ""}),
        ("verdict", {"task": "vsp-planning", "map": MAZE.rows(), "output": "", "more": 1}),
        ("verdict", []),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(client: TestClient, path: str, body: Any) -> None:
    reply = client.post(f"/page/{path}", json=body)
    assert reply.status_code == 400 and reply.json()["error"]["message"]
