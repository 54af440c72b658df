"""The original VSP repository's maps, read from a checkout of it.

``maze/task-main/maps/level3/{img,table}/0.{png,txt}`` are planning problems. The table writes a map in symbols
(@ player, * goal, # hole, _ safe); without a table, the map is read from the image. ``maze/task1`` to ``task4`` with
``maps/level3/{img,question,answer}`` are questions in words: the benchmark vsp-questions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mirage_core.benchmarks import vsp_planning
from mirage_core.benchmarks.benchmark import Benchmark
from mirage_core.benchmarks.io.jsonl import Row, read_image_file
from mirage_core.benchmarks.vsp_answers import OFFICIAL_RULE, RULES, score
from mirage_core.benchmarks.vsp_prompts import PromptForm, check_form, with_ending
from mirage_core.config import VSPFolderData
from mirage_core.errors import DataError, InputError
from mirage_core.types import Problem, Split, Variant
from mirage_core.worlds.maze import GOAL, HOLE, SAFE, START, Maze, maze_from_rows, read_maze, shortest_path

NAME = "vsp-questions"
TASKS = ("task1", "task2", "task3", "task4")
GROUPS = tuple(f"{task}-level-{level}" for task in TASKS for level in range(3, 9))
PLANNING = "task-main"
SYMBOLS = {"@": START, "*": GOAL, "#": HOLE, "_": SAFE}


def load(file: object, split: Split = "test") -> list[Problem]:
    """The questions of all tasks in a checkout of the repository; DataError names what is not as published."""
    data = VSPFolderData(source=str(file), tasks=TASKS)
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
        for level in data.levels:
            images = root / f"level{level}" / "img"
            files = sorted(images.glob("*.png"), key=_number)
            if not files:
                raise DataError(f"{images} holds no PNG: expected the maps of level {level} there")
            for file in files[: data.per_level]:
                yield _planning(root, file, level) if task == PLANNING else _question(root, file, task, level)


def _maps_folder(source: Path, task: str) -> Path:
    for candidate in (source / "maze" / task / "maps", source / task / "maps"):
        if any(candidate.glob("level*/img")):
            return candidate
    raise DataError(
        f"{source} holds no maze/{task}/maps/level*/img: expected a checkout of the original VSP repository"
    )


def _number(file: Path) -> int:
    if not file.stem.isdecimal():
        raise DataError(f"{file}: expected a number as the file's name, as published")
    return int(file.stem)


def _question(root: Path, file: Path, task: str, level: int) -> Problem:
    number = _number(file)
    image, _ = read_image_file(Row(root / "maps", number, {}), "img", file.relative_to(root).as_posix())
    texts = []
    for kind in ("question", "answer"):
        text = root / f"level{level}" / kind / f"{number}.txt"
        if not text.is_file() or not text.read_text(encoding="utf-8").strip():
            raise DataError(f"{file}: its {kind} is missing or empty; expected it in {text}")
        texts.append(text.read_text(encoding="utf-8"))
    question, answer = texts
    return Problem(
        id=f"vsp-{task}-{level}-{number:03d}",
        benchmark=NAME,
        split="test",
        group=f"{task}-level-{level}",
        question=with_ending(f"<image>\n{question.strip()}", "direct"),
        images=(image,),
        answer=answer.strip(),
        facts={},
    )


def _planning(root: Path, file: Path, level: int) -> Problem:
    number = _number(file)
    encoded, image = read_image_file(Row(root / "maps", number, {}), "img", file.relative_to(root).as_posix())
    table = root / f"level{level}" / "table" / f"{number}.txt"
    maze = _read_table(table) if table.is_file() else read_maze(image)
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
