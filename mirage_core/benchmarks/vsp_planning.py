"""VSP spatial planning: an image of a maze, and a plan of moves to its goal.

Published as JSONL with ``text_input``, ``image_input``, ``map_id``, ``map_desc``. Any plan that works is right; it
need not be the shortest.
"""

from __future__ import annotations

from pathlib import Path

from mirage_core.benchmarks.answer_parsing import boxed
from mirage_core.benchmarks.benchmark import PLANNING_RULES, Benchmark, check_rule
from mirage_core.benchmarks.io.jsonl import Row, read_image, read_question, read_rows
from mirage_core.benchmarks.vsp_prompts import PLANNING, PromptForm, check_form, with_ending
from mirage_core.errors import DataError, InputError
from mirage_core.types import Problem, Score, Split, Variant
from mirage_core.worlds.maze import MOVES, Maze, maze_from_rows, shortest_path, walk

NAME = "vsp-planning"
GROUPS = tuple(f"level-{level}" for level in range(3, 9))
_PLAN_HEADING = "Action plan:"


def load(file: Path, split: Split = "test") -> list[Problem]:
    """The rows of a published file, each checked; raises DataError naming file and line."""
    return [_problem_of_row(row, split) for row in read_rows(file)]


def _problem_of_row(row: Row, split: Split) -> Problem:
    question, (data, _), maze = read_question(row), read_image(row), read_map(row)
    path = shortest_path(maze)
    if path is None:
        raise DataError(f"{row.where}: the goal of map_desc cannot be reached from its start; correct the map")
    return make_problem(f"{row.file.stem}-{row.line:05d}", split, maze, data, answer=path, question=question)


def read_map(row: Row) -> Maze:
    """The row's ``map_desc``, checked."""
    if "map_desc" not in row.values:
        raise DataError(f"{row.where}: the key 'map_desc' is missing (it has {sorted(row.values)}); add the map")
    try:
        return maze_from_rows(row.values["map_desc"])
    except InputError as error:
        raise DataError(f"{row.where}: map_desc is not a maze: {error}") from error


def make_problem(
    identity: str, split: Split, maze: Maze, image: bytes, answer: str, question: str | None = None
) -> Problem:
    """A planning problem about a maze; without ``question`` it has the published one."""
    return Problem(
        id=identity,
        benchmark=NAME,
        split=split,
        group=f"level-{maze.level}",
        question=question or with_ending(PLANNING, "direct"),
        images=(image,),
        answer=answer,
        facts={"map": maze.rows()},
    )


def prompt(problem: Problem, form: PromptForm, variant: Variant) -> str:
    """The prompt, with one ``<image>``: the problem's question and the variant's ending, or the short form."""
    check_form(form)
    return "<image>\nPlan:" if form == "short" else with_ending(problem.question, variant)


def score(problem: Problem, output: str, rule: str = "mirage") -> Score:
    """Follow the plan of an answer on the problem's map.

    ``mirage``: the moves in the last box; right if the FINAL cell is the goal. ``vsp``: the moves on the line after
    the last "Action plan:" (without such a line those in the box, since Mirage's prompt asks for one); the first hole
    or goal entered decides. In both a move off the grid does nothing and a hole is failure. An answer without moves is
    unparsed, hence wrong.
    """
    check_rule(rule, PLANNING_RULES, NAME)
    plan = read_plan(output, rule)
    maze = maze_from_rows(problem.facts["map"])
    correct = plan is not None and walk(maze, plan, stop_at_goal=rule == "vsp").outcome == "success"
    return Score(problem_id=problem.id, correct=correct, parsed=plan, rule=rule)


def read_plan(output: str, rule: str = "mirage") -> str | None:
    """The moves U, D, L, R of an answer under a rule, None if it names none."""
    text = boxed(output)
    if rule == "vsp" and _PLAN_HEADING in output:
        text = output.rpartition(_PLAN_HEADING)[2].strip().partition("\n")[0]
    moves = "".join(letter for letter in text or "" if letter in MOVES)
    return moves or None


BENCHMARK = Benchmark(NAME, GROUPS, PLANNING_RULES, load, score, prompt)
