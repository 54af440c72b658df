"""Auxiliary images: arrows along the answer, the map after a step."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from mirage_core.benchmarks.generate import generate_problems
from mirage_core.config import AuxiliaryImageSettings, BenchmarkData, ProblemSettings
from mirage_core.errors import DataError, InputError
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.synthesis.maze_images import choose_step, draw_arrows, draw_map_after_step
from mirage_core.types import Problem
from mirage_core.worlds.maze import Player, maze_from_rows, render

MAZE = maze_from_rows([[1, 0, 0], [0, -1, 0], [0, 0, 2]])
STYLE = AuxiliaryImageSettings()
DATA = BenchmarkData(train_levels=(3,), train=6, validation=0, test_per_level=0)


def quiet(event):
    """Nobody listens."""


@pytest.fixture(scope="module")
def problems():
    return generate_problems(ProblemSettings(vsp_planning=DATA, vsp_reasoning=DATA), 1, quiet)


def reds(image):
    pixels = np.array(image).astype(int)
    return (pixels == (255, 0, 0)).all(axis=2)


def test_every_cell_of_the_path_carries_red_and_no_other_cell_does():
    red = reds(draw_arrows(MAZE, "RRDD", STYLE))
    touched = {(r, c) for r in range(3) for c in range(3) if red[r * 64 : r * 64 + 64, c * 64 : c * 64 + 64].any()}
    assert touched == {(0, 0), (0, 1), (0, 2), (1, 2), (2, 2)}


@pytest.mark.parametrize(
    ("move", "start", "towards"), [("R", (1, 0), 1), ("L", (1, 2), 1), ("D", (0, 1), 0), ("U", (2, 1), 0)]
)
def test_an_arrow_points_where_the_move_goes(move, start, towards):
    rows = [[0, 0, 0], [0, 0, 0], [0, 0, 0]]
    rows[start[0]][start[1]], rows[0][0] = 1, 2
    red = reds(draw_arrows(maze_from_rows(rows), move, STYLE))
    along = red.sum(axis=1 - towards)
    cells = np.nonzero(along)[0]
    head = int(np.argmax(along))
    forward = move in "RD"
    assert abs(head - cells[-1 if forward else 0]) < abs(head - cells[0 if forward else -1])


def test_a_move_off_the_grid_draws_nothing_and_a_hole_ends_the_arrows():
    assert not reds(draw_arrows(MAZE, "UL", STYLE)).any()
    assert (reds(draw_arrows(MAZE, "RDD", STYLE)) == reds(draw_arrows(MAZE, "RD", STYLE))).all()


def test_the_style_is_a_setting():
    blue = draw_arrows(MAZE, "RR", AuxiliaryImageSettings(arrow_color=(0, 0, 255)))
    assert (np.array(blue) == (0, 0, 255)).all(axis=2).any()
    wide = draw_arrows(MAZE, "RR", AuxiliaryImageSettings(arrow_width=0.3))
    assert reds(wide).sum() > 1.5 * reds(draw_arrows(MAZE, "RR", STYLE)).sum()


def test_arrows_fit_other_cell_sizes():
    assert draw_arrows(MAZE, "RRDD", STYLE, 28).size == (84, 84)


@pytest.mark.parametrize(
    ("plan", "step", "player"),
    [
        ("RRDD", 0, Player((0, 0), "D")),
        ("RRDD", 1, Player((0, 1), "R")),
        ("RRDD", 3, Player((1, 2), "D")),
        ("RRDD", 4, Player((2, 2), "D")),
        ("RRDDUU", 6, Player((2, 2), "D")),
        ("RDR", 3, Player((1, 1), "D")),
        ("UL", 2, Player((0, 0), "L")),
    ],
)
def test_the_map_after_a_step_shows_the_player_where_it_came(plan, step, player):
    assert draw_map_after_step(MAZE, plan, step).tobytes() == render(MAZE, player=player).tobytes()


def test_a_step_beyond_the_plan_is_refused():
    with pytest.raises(InputError, match="expected 0 to 2"):
        draw_map_after_step(MAZE, "RR", 3)


def test_the_step_follows_the_setting():
    def step(which, plan="RRDDL"):
        return choose_step("a", plan, AuxiliaryImageSettings(reasoning_step=which), 3)

    assert (step("first"), step("middle"), step("last")) == (1, 3, 5)
    assert step("middle", "R") == 1
    drawn = {choose_step(f"p{i}", "RRDDL", STYLE, 3) for i in range(100)}
    assert drawn == {1, 2, 3, 4, 5}
    assert step("random") == step("random")


def test_one_picture_a_problem_in_their_order_and_the_same_every_time(problems):
    events = []
    images = draw_auxiliary_images(problems, STYLE, 64, 5, events.append)
    assert [i.problem_id for i in images] == [p.id for p in problems]
    assert [i.style for i in images] == ["arrows"] * 6 + ["map-after-step"] * 6
    assert images == draw_auxiliary_images(problems, STYLE, 64, 5, quiet)
    assert events[-1].step == events[-1].total == 12
    for image, problem in zip(images, problems, strict=True):
        assert Image.open(io.BytesIO(image.image)).size == Image.open(io.BytesIO(problem.images[0])).size
    assert all(1 <= i.details["step"] <= i.details["steps"] for i in images[6:])


def test_a_problem_without_a_map_or_of_another_benchmark_is_refused():
    common = {"id": "x", "split": "test", "group": "g", "question": "<image>", "images": (b"",), "answer": "A"}
    with pytest.raises(DataError, match="has no map"):
        draw_auxiliary_images([Problem(benchmark="vsp-reasoning", facts={"plan": "R"}, **common)], STYLE, 64, 0, quiet)
    with pytest.raises(InputError, match=r"'sat'.* sat needs auxiliary_images\.scenes"):
        draw_auxiliary_images([Problem(benchmark="sat", **{**common, "split": "train"})], STYLE, 64, 0, quiet)
