"""The maze's rules: moving, walking, shortest paths, canonical forms, random mazes and plans."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_core.errors import InputError
from mirage_core.worlds.maze import (
    Maze,
    canonical,
    maze_from_rows,
    orientations,
    random_maze,
    random_plan,
    shortest_path,
    walk,
)

PLANS = st.text("UDLR", max_size=12)
# Start upper left, goal lower right, a hole in the middle.
OPEN = maze_from_rows([[1, 0, 0], [0, -1, 0], [0, 0, 2]])


@st.composite
def mazes(draw: st.DrawFn) -> Maze:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return random_maze(rng, draw(st.sampled_from((3, 4, 5, 8))), draw(st.sampled_from((0.0, 0.2, 0.5))))


def test_a_move_off_the_grid_does_nothing():
    assert walk(OPEN, "UL").cells == ((0, 0), (0, 0), (0, 0))
    assert walk(OPEN, "URRRDD").outcome == "success"


def test_a_hole_ends_the_walk_in_failure():
    ended = walk(OPEN, "RDDR")
    assert ended.cells == ((0, 0), (0, 1), (1, 1))
    assert ended.outcome == "hole"


def test_the_final_cell_decides_unless_the_goal_ends_the_walk():
    assert walk(OPEN, "RRDDU").outcome == "safe"
    assert walk(OPEN, "RRDDU", stop_at_goal=True).outcome == "success"
    assert walk(OPEN, "").outcome == "safe"


def test_a_plan_of_other_letters_is_refused():
    with pytest.raises(InputError, match="U, D, L, R"):
        walk(OPEN, "RX")


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ("map", "square map"),
        ([[1, 0, 0], [0, 0, 0]], "square map"),
        ([[1, 0, 0], [0, 0], [0, 0, 2]], "square map"),
        ([[1, 0, 0], [0, 7, 0], [0, 0, 2]], "expected cells"),
        ([[1, 0, 0], [0, True, 0], [0, 0, 2]], "expected cells"),
        ([[0, 0, 0], [0, 0, 0], [0, 0, 2]], "start"),
        ([[1, 0, 0], [0, 0, 0], [0, 0, 0]], "goal"),
        ([[1, 1, 0], [0, 0, 0], [0, 0, 2]], "start"),
        (None, "list of rows"),
    ],
)
def test_a_map_that_is_none_is_refused_with_the_reason(rows, what):
    with pytest.raises(InputError, match=what):
        maze_from_rows(rows)


@given(mazes())
@settings(max_examples=60, deadline=None)
def test_a_shortest_path_succeeds_and_no_shorter_plan_does(maze):
    plan = shortest_path(maze)
    assert walk(maze, plan).outcome == "success"
    reached = {maze.start}
    for _ in range(len(plan) - 1):
        reached |= {walk_one(maze, cell, move) for cell in reached for move in "UDLR"} - set(maze.holes)
        assert maze.goal not in reached


def walk_one(maze, cell, move):
    rows = [[0 if kind == 1 else kind for kind in row] for row in maze.rows()]
    rows[cell[0]][cell[1]] = 1
    return walk(Maze(tuple(map(tuple, rows))), move).cells[-1]


def test_there_is_no_path_through_a_wall_of_holes():
    assert shortest_path(maze_from_rows([[1, -1, 0], [-1, -1, 0], [0, 0, 2]])) is None


def test_among_shortest_paths_the_first_in_the_order_up_down_left_right_is_taken():
    assert shortest_path(maze_from_rows([[1, 0, 0], [0, 0, 0], [0, 0, 2]])) == "DDRR"


@given(mazes(), PLANS)
@settings(max_examples=60, deadline=None)
def test_a_walk_stays_on_the_grid_and_stops_only_in_a_hole(maze, plan):
    walked = walk(maze, plan)
    assert all(0 <= r < maze.level and 0 <= c < maze.level for r, c in walked.cells)
    assert all(cell not in maze.holes for cell in walked.cells[:-1])
    assert len(walked.cells) == len(plan) + 1 or walked.outcome == "hole"


@given(mazes())
@settings(max_examples=60, deadline=None)
def test_the_canonical_form_is_that_of_every_rotation_and_reflection(maze):
    turned = orientations(maze)
    assert turned[0] == maze
    assert len(turned) == 8
    assert {canonical(t) for t in turned} == {canonical(maze)}
    assert {len(shortest_path(t)) for t in turned} == {len(shortest_path(maze))}


@given(mazes(), mazes())
@settings(max_examples=60, deadline=None)
def test_two_mazes_share_a_canonical_form_only_when_one_is_the_other_turned(one, other):
    assert (canonical(one) == canonical(other)) == (other in orientations(one))


def test_a_random_maze_depends_on_the_seed_alone():
    first, again = (random_maze(np.random.default_rng(7), 5, 0.2) for _ in range(2))
    assert first == again
    assert first != random_maze(np.random.default_rng(8), 5, 0.2)


@given(mazes(), st.sampled_from(("success", "hole", "safe")), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_a_random_plan_has_the_wanted_outcome_by_its_last_move_and_never_leaves_the_grid(maze, outcome, longest, seed):
    plan = random_plan(np.random.default_rng(seed), maze, outcome, longest)
    if plan is None:
        return
    walked = walk(maze, plan, stop_at_goal=True)
    assert 1 <= len(plan) <= longest
    assert walked.outcome == outcome
    assert len(walked.cells) == len(plan) + 1
    assert all(here != there for here, there in zip(walked.cells, walked.cells[1:], strict=False))


def test_a_plan_that_cannot_exist_is_none():
    rng = np.random.default_rng(0)
    assert random_plan(rng, maze_from_rows([[1, 0, 0], [0, 0, 0], [0, 0, 2]]), "hole", 9) is None
    assert random_plan(rng, OPEN, "success", 3) is None


def test_every_length_that_has_a_plan_is_drawn():
    rng = np.random.default_rng(0)
    lengths = {len(random_plan(rng, OPEN, "safe", 9)) for _ in range(200)}
    assert lengths == set(range(1, 10))
