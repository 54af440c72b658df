"""Films: frames and labels of every world, and nothing of them where they are off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mirage_core import benchmarks
from mirage_core.benchmarks import jigsaw, vsp_planning, vsp_reasoning
from mirage_core.benchmarks.multiple_choice import LETTERS
from mirage_core.config import AuxiliaryImageSettings, JigsawData, ProblemSettings, TaskData
from mirage_core.errors import DataError
from mirage_core.image_files import read_rgb
from mirage_core.latent.frame_changes import changed_tokens
from mirage_core.store.records import load_auxiliary_images, save_auxiliary_images
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.synthesis.draw import iter_auxiliary_images
from mirage_core.synthesis.maze_images import draw_arrows, draw_map_after_step
from mirage_core.types import AuxiliaryImage, Problem
from mirage_core.worlds.jigsaw import stitched
from mirage_core.worlds.maze import maze_from_rows, picture_bytes, render

MAZE = maze_from_rows([[1, 0, 0], [-1, 0, 2], [0, 0, 0]])
IMAGE = picture_bytes(render(MAZE))
FORWARD, OFF = AuxiliaryImageSettings(film="forward"), AuxiliaryImageSettings()
TASK = """
from mirage_core.benchmarks.custom.task import Problem, Score, picture_bytes
from PIL import Image

NAME, GROUPS = "shades", ("all shades",)


def problems(split, count, seed, options):
    return iter(())


def auxiliary_image(problem, seed):
    return [picture_bytes(Image.new("L", (28, 28), shade)) for shade in (10, 20, 30)]


def score(problem, output):
    return Score(problem_id=problem.id, correct=False, parsed=None, rule="task")
"""


def drawn(problem: Problem, settings: AuxiliaryImageSettings = FORWARD) -> AuxiliaryImage:
    (image,) = draw_auxiliary_images([problem], settings, 64, 7, lambda event: None)
    return image


def reasoning(plan: str) -> Problem:
    answer = vsp_reasoning.answer_of(MAZE, plan)
    return vsp_reasoning.make_problem("r", "train", MAZE, IMAGE, plan, answer)


def planning(plan: str = "RRD") -> Problem:
    return vsp_planning.make_problem("p", "train", MAZE, IMAGE, answer=plan)


def test_a_film_of_reasoning_is_the_map_after_each_move_with_cell_and_kind() -> None:
    image = drawn(reasoning("RDLU"))
    assert image.frames == tuple(picture_bytes(draw_map_after_step(MAZE, "RDLU", step)) for step in (1, 2, 3, 4))
    assert image.details["cells"] == [[0, 1], [1, 1], [1, 0], [1, 0]]  # in the hole the walk is over
    assert image.details["kinds"] == ["ice", "ice", "hole", "hole"]
    assert image.details["frames"] == 4 and image.details["steps"] == 4


def test_a_move_off_the_map_is_a_frame_too() -> None:
    assert drawn(reasoning("UR")).details["cells"] == [[0, 0], [0, 1]]
    assert drawn(reasoning("UR")).details["kinds"] == ["start", "ice"]


def test_a_film_of_planning_draws_the_arrows_one_by_one() -> None:
    image = drawn(planning())
    assert image.frames[-1] == image.image == picture_bytes(draw_arrows(MAZE, "RRD", FORWARD))
    assert image.frames[0] == picture_bytes(draw_arrows(MAZE, "R", FORWARD))
    assert image.details["cells"] == [[0, 1], [0, 2], [1, 2]] and image.details["kinds"] == ["ice", "ice", "goal"]


def test_a_backward_film_of_planning_begins_at_the_goal() -> None:
    settings = AuxiliaryImageSettings(film="backward")
    image = drawn(planning(), settings)
    assert len(set(image.frames)) == 3 and image.frames[-1] == image.image
    assert image.frames[0] == picture_bytes(draw_arrows(MAZE, "RRD", settings, moves=slice(2, None)))
    assert image.details["cells"] == [[0, 2], [0, 1], [0, 0]]
    assert drawn(reasoning("RDLU"), settings).frames == drawn(reasoning("RDLU")).frames


def test_a_wave_of_planning_spreads_from_the_goal_over_all_cells_of_a_distance_until_none_is_left() -> None:
    settings = AuxiliaryImageSettings(film="wave")
    image = drawn(planning(), settings)
    assert image.image == drawn(planning()).image and len(set(image.frames)) == 4
    assert image.details["cells"] == [[[1, 2]], [[0, 2], [1, 1], [2, 2]], [[0, 1], [2, 1]], [[0, 0], [2, 0]]]
    assert image.details["kinds"] == [["goal"], ["ice"] * 3, ["ice"] * 2, ["start", "ice"]]
    assert drawn(reasoning("RDLU"), settings).frames == drawn(reasoning("RDLU")).frames


def test_a_search_is_the_wave_until_it_reaches_the_start_and_then_the_path() -> None:
    wave, path = drawn(planning(), AuxiliaryImageSettings(film="wave")), drawn(planning())
    image = drawn(planning("RRD"), AuxiliaryImageSettings(film="search"))
    assert image.image == path.image and image.frames == (
        *wave.frames,
        *path.frames,
    )
    assert image.details["cells"] == [*wave.details["cells"], *path.details["cells"]]
    assert image.details["kinds"] == [*wave.details["kinds"], *path.details["kinds"]]


def test_a_search_shows_nothing_that_is_farther_from_the_goal_than_the_start() -> None:
    maze = maze_from_rows([[0, 1, 0], [0, 0, 0], [0, 2, 0]])
    problem = vsp_planning.make_problem("p", "train", maze, picture_bytes(render(maze)), answer="DD")
    cells = drawn(problem, AuxiliaryImageSettings(film="search")).details["cells"]
    assert cells == [[[2, 1]], [[1, 1], [2, 0], [2, 2]], [[0, 1], [1, 0], [1, 2]], [1, 1], [2, 1]]


def test_a_frame_of_a_wave_changes_the_cells_it_is_about_and_no_others() -> None:
    image = drawn(planning(), AuxiliaryImageSettings(film="wave"))
    shown = [read_rgb(data, "a frame") for data in (planning().images[0], *image.frames)]
    masks = changed_tokens(shown[0], shown[1:], (3, 3), 0.0)
    cells = [[list(divmod(at, 3)) for at in mask.nonzero()[0].tolist()] for mask in masks]
    assert cells == image.details["cells"]


def test_a_film_of_a_jigsaw_puts_each_candidate_in_its_place() -> None:
    problems = jigsaw.jigsaw_problems(JigsawData(train=1, validation=0, test=0, side_px=28), 7, lambda event: None)
    problem = next(problems)
    image = drawn(problem)
    reference, *pieces = (read_rgb(data, "a piece") for data in problem.images)
    assert image.frames == tuple(picture_bytes(stitched(reference, [piece])) for piece in pieces)
    assert len(image.frames) == 2 and LETTERS.index(problem.answer) in (0, 1)
    assert "cells" not in image.details


def test_without_a_film_an_image_is_what_it_was() -> None:
    for problem in (reasoning("RDLU"), planning()):
        plain, film = drawn(problem, OFF), drawn(problem)
        assert plain.frames == () and "frames" not in plain.details
        assert (plain.image, plain.style) == (film.image, film.style)
        assert {**film.details, **plain.details} == film.details


def test_an_image_of_a_data_set_is_its_own_film_and_several_are_one() -> None:
    problem = replace(planning(), id="own")
    one = AuxiliaryImage(problem_id="own", image=b"a", style="own")
    several = replace(one, image=b"c", frames=(b"a", b"b", b"c"))

    def of(given: AuxiliaryImage, settings: AuxiliaryImageSettings) -> AuxiliaryImage:
        (image,) = iter_auxiliary_images([problem], settings, 64, 7, lambda event: None, {"own": given})
        return image

    assert of(one, OFF) == one
    assert of(one, FORWARD) == replace(one, frames=(b"a",), details={"frames": 1})
    assert of(several, FORWARD) == replace(several, details={"frames": 3})


@pytest.fixture
def task(tmp_path: Path) -> Any:
    (tmp_path / "shades.py").write_text(TASK)
    yield benchmarks.use(ProblemSettings(task=TaskData(module=str(tmp_path / "shades.py"))))
    benchmarks.use(ProblemSettings())


def test_a_task_may_return_a_list_whose_last_image_is_the_one_without_a_film(task: Any) -> None:
    problem = replace(planning(), benchmark=task.name)
    film, plain = drawn(problem), drawn(problem, OFF)
    assert len(film.frames) == film.details["frames"] == 3
    assert film.image == film.frames[-1] == plain.image and plain.frames == ()


def test_a_problem_without_a_map_has_no_film() -> None:
    with pytest.raises(DataError, match="has no map"):
        drawn(replace(planning(), facts={}))


def test_frames_are_stored_in_a_column_that_only_a_film_has(tmp_path: Path) -> None:
    film, plain = drawn(planning()), drawn(planning(), OFF)
    save_auxiliary_images(tmp_path / "film.parquet", [film], film=True)
    save_auxiliary_images(tmp_path / "plain.parquet", [plain])
    assert load_auxiliary_images(tmp_path / "film.parquet") == [film]
    assert load_auxiliary_images(tmp_path / "film.parquet", frames=False) == [replace(film, frames=())]
    assert load_auxiliary_images(tmp_path / "plain.parquet") == [plain]
    with pytest.raises(DataError, match="has frames, which this table has no column for"):
        save_auxiliary_images(tmp_path / "lost.parquet", [film])
