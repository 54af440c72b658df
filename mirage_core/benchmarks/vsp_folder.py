"""The original VSP repository's maps, read from a checkout of it.

``VSP-main/maze/task-main/maps/level3/{img,table}/0.{png,txt}`` are planning problems. The table writes a map in symbols
(@ player, * goal, # hole, _ safe); without a table, the map is read from the image. ``task1`` to ``task4`` are
questions in words, the benchmark vsp-questions: is there a hole in a cell, where is the player seen from the goal (the
map gives the answer, as in the authors' eval.py), which text shows the map, is a plan safe (``maps/level_step1`` to
``level_step9``, with the plan as the question).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from mirage_core.benchmarks import vsp_planning
from mirage_core.benchmarks.benchmark import Benchmark
from mirage_core.benchmarks.io.faults import converted
from mirage_core.benchmarks.io.jsonl import Row, read_image_file
from mirage_core.benchmarks.vsp_answers import OFFICIAL_RULE, RULES, right_answer, score
from mirage_core.benchmarks.vsp_prompts import PromptForm, check_form, with_ending
from mirage_core.config import VSPFolderData
from mirage_core.errors import DataError, InputError
from mirage_core.types import Problem, Split, Variant
from mirage_core.worlds.maze import GOAL, HOLE, SAFE, START, Maze, maze_from_rows, read_maze, shortest_path, walk

NAME = "vsp-questions"
TASKS = ("task1", "task2", "task3", "task4")
STEPS = (1, 3, 5, 7, 9)
"""The lengths of the plans of task 4."""
LEVELS = (3, 4, 5, 6, 7, 8)
GROUPS = (
    *(f"{task}-level-{level}" for task in TASKS[:3] for level in LEVELS),
    *(f"task4-steps-{steps}" for steps in STEPS),
)
PLANNING = "task-main"
SYMBOLS = {"@": START, "*": GOAL, "#": HOLE, "_": SAFE}


def load(file: object, split: Split = "test") -> list[Problem]:
    """The questions of all tasks and levels in a checkout of the repository; DataError for what is not as published."""
    data = VSPFolderData(source=str(file), tasks=TASKS, levels=LEVELS)
    return [problem for problem in folder_problems(data) if problem.split == split]


def prompt(problem: Problem, form: PromptForm, variant: Variant) -> str:
    """The prompt: the question's own words and the variant's ending."""
    check_form(form)
    return with_ending(problem.question, variant)


BENCHMARK = Benchmark(NAME, GROUPS, RULES, load, score, prompt, official=OFFICIAL_RULE)


def folder_problems(data: VSPFolderData) -> Iterator[Problem]:
    """Maps (task-main) and questions (task1 to task4), task by task and level by level, ordered by their numbers.

    DataError names what is not as published.
    """
    for task in data.tasks:
        root = _maps_folder(Path(data.source).expanduser(), task)
        for level in STEPS if task == "task4" else data.levels:
            folder = root / (f"level_step{level}" if task == "task4" else f"level{level}")
            files = sorted((folder / "img").glob("*.png"), key=_number)
            if not files:
                raise DataError(f"{folder / 'img'} holds no PNG: expected the maps of level {level} there")
            yield from converted(files[: data.per_level], partial(_problem, folder, task, level))


def _problem(folder: Path, task: str, level: int, file: Path) -> Problem:
    return _planning(folder, file, level) if task == PLANNING else _question(folder, file, task, level)


def _maps_folder(source: Path, task: str) -> Path:
    for parent in (source / "VSP-main" / "maze", source / "maze", source):
        if any((parent / task / "maps").glob("level*/img")):
            return parent / task / "maps"
    raise DataError(
        f"{source} holds no maze/{task}/maps/level*/img: expected a checkout of the original VSP repository"
    )


def _number(file: Path) -> int:
    if not file.stem.isdecimal():
        raise DataError(f"{file}: expected a number as the file's name, as published")
    return int(file.stem)


def _question(folder: Path, file: Path, task: str, level: int) -> Problem:
    number = _number(file)
    encoded, image = read_image_file(Row(folder / "img", number, {}), "img", f"img/{file.name}")
    question, answer = _ASK[task](folder, number, image)
    return Problem(
        id=f"vsp-{task}-{level}-{number:03d}",
        benchmark=NAME,
        split="test",
        group=f"{task}-{'steps' if task == 'task4' else 'level'}-{level}",
        question=with_ending(f"<image>\n{question}", "direct"),
        images=(encoded,),
        answer=right_answer(answer),
        facts={},
    )


def _text(folder: Path, number: int, kind: str) -> str:
    file = folder / kind / f"{number}.txt"
    if not file.is_file() or not (text := file.read_text(encoding="utf-8-sig").strip()):
        raise DataError(f"{folder / 'img' / f'{number}.png'}: its {kind} is missing or empty; expected it in {file}")
    return text


def _hole(folder: Path, number: int, image: Image.Image) -> tuple[str, str]:  # noqa: ARG001 (one signature for all)
    return _text(folder, number, "question"), _text(folder, number, "answer")


def _relative_position(folder: Path, number: int, image: Image.Image) -> tuple[str, str]:
    maze = _maze(folder, number, image)
    (row, column), (goal_row, goal_column) = maze.start, maze.goal
    words = ["Below" if row > goal_row else "Above"] if row != goal_row else []
    words += ["Right" if column > goal_column else "Left"] if column != goal_column else []
    question = (
        "Where is the player relative to the goal? Answer with Above or Below, Left or Right, or one of each pair "
        "with a comma between them. Leave out a pair where both are in one row or one column."
    )
    return question, ",".join(words)


def _map_as_text(folder: Path, number: int, image: Image.Image) -> tuple[str, str]:  # noqa: ARG001
    question = (
        "Which of these texts shows the map of the image (@ player, # hole, _ safe, * goal)? Answer with its letter."
    )
    return f"{question}\n{_text(folder, number, 'question')}", _text(folder, number, "answer")


def _safe_plan(folder: Path, number: int, image: Image.Image) -> tuple[str, str]:
    plan = _text(folder, number, "question")
    if not set(plan) <= set(_MOVES):
        raise DataError(f"{folder / 'question' / f'{number}.txt'}: {plan[:40]!r} is no plan of the letters U, D, L, R")
    has_answer = (folder / "answer" / f"{number}.txt").is_file()
    maze = None if has_answer else _maze(folder, number, image)
    safe = maze is None or all(maze.cells[row][column] != HOLE for row, column in walk(maze, plan).cells)
    moves = ", ".join(_MOVES[move] for move in plan)
    question = f"A plan is safe if the player never steps into a hole. Is this plan safe? Answer Yes or No.\n{moves}"
    return question, _text(folder, number, "answer") if has_answer else "Y" if safe else "N"


_MOVES = {"U": "Up", "D": "Down", "L": "Left", "R": "Right"}
_ASK = {"task1": _hole, "task2": _relative_position, "task3": _map_as_text, "task4": _safe_plan}
"""What each task asks, and its right answer, from a level's folder, a map's number and its image."""


def _maze(folder: Path, number: int, image: Image.Image) -> Maze:
    """The map of a table, or without one that of the image."""
    table = folder / "table" / f"{number}.txt"
    return _read_table(table) if table.is_file() else read_maze(image)


def _planning(folder: Path, file: Path, level: int) -> Problem:
    number = _number(file)
    encoded, image = read_image_file(Row(folder / "img", number, {}), "img", f"img/{file.name}")
    maze = _maze(folder, number, image)
    path = shortest_path(maze)
    if maze.level != level or path is None:
        raise DataError(f"{file}: the map has level {maze.level} and {'a' if path else 'no'} way to the goal")
    return vsp_planning.make_problem(f"vsp-folder-{level}-{number:03d}", "test", maze, encoded, answer=path)


def _read_table(file: Path) -> Maze:
    """The map of a table: its lines with symbols, whatever stands between the symbols."""
    lines = file.read_text(encoding="utf-8").splitlines()
    rows = [[SYMBOLS[symbol] for symbol in line if symbol in SYMBOLS] for line in lines]
    try:
        return maze_from_rows([row for row in rows if row])
    except InputError as error:
        raise DataError(f"{file}: {error}") from error
