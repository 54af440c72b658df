"""Which answers are shown, and how they are explained."""

from __future__ import annotations

import pytest

from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.benchmarks.judge import judge
from mirage_core.errors import DataError
from mirage_core.evaluation.sample_selection import select_samples
from mirage_core.reports.drawings import RIGHT_COLOUR, WRONG_COLOUR, draw_plan, open_image
from mirage_core.reports.trajectories import Piece, pieces, sample
from mirage_core.types import Prediction, Problem
from mirage_core.worlds.maze import maze_from_rows, picture_bytes, render

MAZE = maze_from_rows([[1, 0, -1], [0, 0, 0], [-1, 0, 2]])


def planning(identity: str = "p") -> Problem:
    return vsp_planning.make_problem(identity, "test", MAZE, picture_bytes(render(MAZE)), "DRRD")


def answered(problem: Problem, output: str, finished: bool = True) -> tuple:
    prediction = Prediction(
        problem_id=problem.id, benchmark=problem.benchmark, group=problem.group, method="stage-2", output=output,
        token_ids=(), spans=(), finished=finished,
    )  # fmt: skip
    return prediction, judge(problem, prediction, "mirage")


def test_an_output_is_split_where_its_latents_stood() -> None:
    assert pieces("<latents:4>\\boxed{R}") == (Piece("", 4), Piece("\\boxed{R}"))
    assert pieces("a<latents:4>b<latents:2>") == (Piece("a"), Piece("", 4), Piece("b"), Piece("", 2))
    assert pieces("") == ()


@pytest.mark.parametrize(
    ("output", "verdict", "expected"),
    [
        ("\\boxed{DRRD}", "right", "reaches the goal; a shortest one is DRRD"),
        ("\\boxed{RR}", "wrong", "falls into the hole in row 1, column 3"),
        ("\\boxed{D}", "wrong", "ends on safe ice in row 2, column 1"),
        ("no idea", "unparsed", "No answer could be read"),
    ],
)
def test_a_verdict_says_why(output: str, verdict: str, expected: str) -> None:
    problem = planning()
    shown = sample(problem, answered(problem, output), None)
    assert shown.verdict == verdict
    assert expected in shown.explanation


def test_a_cut_answer_says_so() -> None:
    problem = planning()
    shown = sample(problem, answered(problem, "I go RRRR and then", finished=False), None)
    assert "before the length limit" in shown.explanation


def test_planning_shows_the_plan_and_reasoning_the_plan_to_judge() -> None:
    problem = planning()
    names = [name for name, _ in sample(problem, answered(problem, "\\boxed{DR}"), problem.images[0]).images]
    assert names == ["input", "auxiliary image", "the model's plan"]
    other = vsp_reasoning.make_problem("r", "test", MAZE, problem.images[0], "DR", "C")
    names = [name for name, _ in sample(other, answered(other, "\\boxed{C}"), None).images]
    assert names == ["input", "the plan to judge"]


def test_samples_are_chosen_by_seed_and_problem_alone_half_right_half_wrong() -> None:
    scored = [answered(planning(f"p{i}"), "\\boxed{DRRD}" if i % 2 else "\\boxed{D}") for i in range(20)]
    chosen = select_samples(scored, 4, seed=1)
    assert [score.correct for _, score in chosen] == [True, True, False, False]
    assert select_samples(list(reversed(scored)), 4, seed=1) == chosen
    assert select_samples(scored, 4, seed=2) != chosen


def test_where_only_one_verdict_exists_it_fills_the_page() -> None:
    right = [answered(planning(f"p{i}"), "\\boxed{DRRD}") for i in range(5)]
    assert len(select_samples(right, 4, seed=1)) == 4
    wrong = [answered(planning(f"p{i}"), "?") for i in range(5)]
    assert len(select_samples(wrong, 4, seed=1)) == 4
    assert select_samples([], 4, seed=1) == []


def test_a_plan_is_drawn_through_its_cells_in_its_colour() -> None:
    image = render(MAZE)
    drawn = draw_plan(image, ((0, 0), (1, 0), (1, 1)), (3, 3), RIGHT_COLOUR)
    assert drawn.size == image.size
    assert drawn.getpixel((32, 64)) == RIGHT_COLOUR
    assert drawn.getpixel((160, 160)) == image.getpixel((160, 160))
    fallen = draw_plan(image, ((0, 0), (0, 0)), (3, 3), WRONG_COLOUR)
    assert fallen.getpixel((32, 32)) == WRONG_COLOUR


def test_a_broken_picture_is_named() -> None:
    with pytest.raises(DataError, match="p7, input image"):
        open_image(b"not an image", "p7, input image")
