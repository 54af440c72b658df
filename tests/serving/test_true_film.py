"""The true film beside what latents imagine: of mazes that the page knows, by the world's own rules."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from mirage_core.analysis.imagined.reading import ImaginationReader
from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.config import Settings
from mirage_core.generation.generator import Generator
from mirage_core.serving.app import make_app
from mirage_core.serving.limits import ServingLimits
from mirage_core.serving.server import ModelServer
from mirage_core.synthesis.film import film_of
from mirage_core.types import Problem
from mirage_core.worlds.maze import Maze, picture_bytes, render, shortest_path
from tests.serving.conftest import make_heads

MAZE = Maze(((1, 0, -1), (0, 0, 0), (-1, 0, 2)))
ALONE = Maze(((1, -1, 0), (-1, -1, 0), (0, 0, 2)))
HEADS = {"cells": {"where": "cell", "what": "kind"}, "pointer": {"where": "pointer", "weight_what": 0}}
LATENTS = 6


@pytest.fixture(params=list(HEADS))
def reader(
    request: pytest.FixtureRequest, generator: Generator, settings: Settings, tmp_path: Path
) -> ImaginationReader:
    made = ImaginationReader.of(make_heads(tmp_path / "heads", **HEADS[request.param]), generator.model, settings)
    assert made is not None
    return made


@pytest.fixture
def client(generator: Generator, settings: Settings, reader: ImaginationReader) -> Iterator[TestClient]:
    server = ModelServer(generator, "m", ServingLimits(rows=2, choices=2), reader)
    with TestClient(make_app(server, None, local=False, problems=settings.problems)) as made:
        yield made


def problem_of(task: str, plan: str, settings: Settings) -> Problem:
    image = picture_bytes(render(MAZE, settings.problems.cell_px))
    if task == vsp_planning.NAME:
        return vsp_planning.make_problem("p", "test", MAZE, image, answer=plan)
    return vsp_reasoning.make_problem("p", "test", MAZE, image, plan, vsp_reasoning.answer_of(MAZE, plan))


@pytest.mark.parametrize(
    ("task", "asked", "output", "whose", "plan"),
    [
        ("vsp-reasoning", "DRR", "\\boxed{C}", "asked", "DRR"),
        ("vsp-planning", "", "\\boxed{R,D,D,R}", "answered", "RDDR"),
        ("vsp-planning", "", "\\boxed{R,L,R,D,R,D}", "shortest", None),
        ("vsp-planning", "", "\\boxed{R,R}", "shortest", None),
        ("vsp-planning", "", "hm", "shortest", None),
    ],
)
def test_each_latent_has_the_frame_that_it_is_held_to_in_a_diagnosis(
    client: TestClient, reader: ImaginationReader, settings: Settings,
    task: str, asked: str, output: str, whose: str, plan: str | None,
) -> None:  # fmt: skip
    body = {"task": task, "map": MAZE.rows(), "plan": asked, "output": output, "latents": LATENTS}
    found = client.post("/page/film", json=body).json()
    assert found["plan"] == whose
    problem = problem_of(task, plan or shortest_path(MAZE) or "", settings)
    forward = settings.auxiliary_images.model_copy(update={"film": "forward"})
    film = film_of(problem, forward, settings.problems.cell_px)
    (expected,) = reader.read([problem], [torch.zeros(LATENTS, reader.loaded.backbone.hidden_size)])
    assert len(found["frames"]) == LATENTS and any(found["frames"])
    for frame, step in zip(found["frames"], expected, strict=True):
        if step.frame is None:
            assert frame is None
            continue
        assert frame["frame"] == step.frame
        assert [tuple(place) for place in frame["places"]] == list(step.true_places)
        assert frame["kind"] == step.true_kind
        check_picture(frame["picture"], film.frames[step.frame])


def check_picture(uri: str, frame: bytes) -> None:
    """The same picture, in small and in few colours."""
    shown = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))).convert("RGB")
    expected = Image.open(io.BytesIO(frame)).convert("RGB").resize((144, 144))
    assert shown.size == (144, 144)
    assert np.abs(np.asarray(shown, dtype=int) - np.asarray(expected, dtype=int)).mean() < 6


def test_the_words_of_a_frame_tell_its_cell_and_kind(client: TestClient, reader: ImaginationReader) -> None:
    body = {"task": "vsp-reasoning", "map": MAZE.rows(), "plan": "RR", "output": "", "latents": 2}
    first, second = client.post("/page/film", json=body).json()["frames"]
    if reader.stepwise.where_head == "cell":
        assert (first["caption"], second["caption"]) == ("row 1, column 2, ice", "row 1, column 3, hole")
    else:
        assert first["caption"] == " or ".join(
            f"row {row + 1}, column {column + 1}" for row, column in first["places"][:3]
        )


def test_a_maze_without_a_way_has_no_film_of_a_plan(client: TestClient) -> None:
    body = {"task": "vsp-planning", "map": ALONE.rows(), "output": "\\boxed{R,R}", "latents": 3}
    assert client.post("/page/film", json=body).json() == {"plan": None, "frames": []}


@pytest.mark.parametrize("wrong", [{"latents": 0}, {"latents": 10**6}, {"plan": ""}, {"map": [[1, 2]]}, {"more": 1}])
def test_what_makes_no_sense_is_refused(client: TestClient, wrong: dict[str, Any]) -> None:
    body = {"task": "vsp-reasoning", "map": MAZE.rows(), "plan": "RR", "output": "", "latents": 2, **wrong}
    reply = client.post("/page/film", json=body)
    assert reply.status_code == 400 and reply.json()["error"]["message"]


def test_a_model_without_heads_has_no_film_beside_its_answers(generator: Generator, settings: Settings) -> None:
    server = ModelServer(generator, "m", ServingLimits(rows=2, choices=2))
    body = {"task": "vsp-reasoning", "map": MAZE.rows(), "plan": "RR", "output": "", "latents": 2}
    with TestClient(make_app(server, None, local=False, problems=settings.problems)) as client:
        reply = client.post("/page/film", json=body)
        assert reply.status_code == 400 and "no heads" in reply.json()["error"]["message"]
