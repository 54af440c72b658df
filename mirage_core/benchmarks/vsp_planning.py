"""VSP spatial planning: an image of a maze, and a plan of moves to its goal.

Published as JSONL with ``text_input``, ``image_input``, ``map_id``, ``map_desc``. Any plan that works is right; it
need not be the shortest.
"""

from __future__ import annotations

from pathlib import Path

from mirage_core.benchmarks.answer_parsing import final_answer
from mirage_core.benchmarks.benchmark import OFFICIAL, PLANNING_RULES, Benchmark, check_rule
from mirage_core.benchmarks.io.faults import converted
from mirage_core.benchmarks.io.jsonl import Row, read_image, read_question, read_rows
from mirage_core.benchmarks.official import moves as official
from mirage_core.benchmarks.reading.moves import read_moves
from mirage_core.benchmarks.regions import Region, cell_boxes
from mirage_core.benchmarks.vsp_prompts import PLANNING, PromptForm, check_form, with_ending
from mirage_core.errors import DataError, InputError
from mirage_core.types import Problem, Score, Split, Variant
from mirage_core.worlds.maze import LARGEST, SMALLEST, Maze, maze_from_rows, shortest_path, walk

NAME = "vsp-planning"
GROUPS = tuple(f"level-{level}" for level in range(SMALLEST, LARGEST + 1))
MIRAGE_OFFICIAL, VSP_OFFICIAL = "mirage-official", "vsp-official"
RULES = (*PLANNING_RULES, MIRAGE_OFFICIAL, VSP_OFFICIAL)


def load(file: Path, split: Split = "test") -> list[Problem]:
    """The rows of a published file, each checked; raises DataError naming file and line."""
    return [*converted(read_rows(file), lambda row: _problem_of_row(row, split))]


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


def score(problem: Problem, output: str, rule: str = RULES[0]) -> Score:
    """Follow the plan of an answer on the problem's map.

    ``mirage``: right if the FINAL cell is the goal. ``vsp``: the first hole or goal entered decides; an answer with
    VSP's own "Action plan: " is read as strictly as its authors do. Both read the moves by reading/moves.py; a move off
    the grid does nothing, a hole is failure, an answer without moves is unparsed, hence wrong. ``mirage-official`` and
    ``vsp-official`` are the authors' code to the letter; ``official`` is Mirage's, whose rows and prompt these are.
    """
    check_rule(rule, (*RULES, OFFICIAL), NAME)
    maze = maze_from_rows(problem.facts["map"])
    applied = MIRAGE_OFFICIAL if rule == OFFICIAL else rule
    if applied in PLANNING_RULES:
        correct, plan = _judged(output, maze, applied)
    else:
        verdict = (official.vsp if applied == VSP_OFFICIAL else official.mirage)(output, maze)
        correct, plan = verdict.correct, verdict.moves
    return Score(problem_id=problem.id, correct=correct, parsed=plan, rule=applied)


def _judged(output: str, maze: Maze, rule: str) -> tuple[bool, str | None]:
    answer = final_answer(output)
    if rule == "vsp" and official.has_marker(answer):
        verdict = official.vsp(answer, maze)
        return verdict.correct, verdict.moves
    plan = read_moves(output)
    return plan is not None and walk(maze, plan, stop_at_goal=rule == "vsp").outcome == "success", plan


def path_regions(problem: Problem) -> tuple[Region, ...]:
    """Return one region: the cells of the shortest path, from the start on."""
    maze = maze_from_rows(problem.facts["map"])
    return (cell_boxes(walk(maze, problem.answer).cells, maze.level),)


BENCHMARK = Benchmark(NAME, GROUPS, RULES, load, score, prompt, official=MIRAGE_OFFICIAL, own_regions=path_regions)
