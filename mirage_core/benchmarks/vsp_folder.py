"""The original VSP repository's maps: ``maze/task-main/maps/level3/{img,table}/0.{png,txt}``, as planning problems,
and ``maze/task4/maps/level3/{img,question,answer}`` as questions in words.

The table writes a map in symbols (@ player, * goal, # hole, _ safe); where there is no table, the map is read from
the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mirage_core.benchmarks import vsp_folder as vsp_questions
from mirage_core.benchmarks import vsp_planning
from mirage_core.benchmarks.answer_parsing import boxed
from mirage_core.benchmarks.io.jsonl import Row, read_picture_file
from mirage_core.benchmarks.vsp_prompts import PromptForm, check_form, with_ending
from mirage_core.config import VSPFolderData
from mirage_core.errors import DataError, InputError, SettingsError
from mirage_core.types import Problem, Score, Split, Variant
from mirage_core.worlds.maze import GOAL, HOLE, SAFE, START, Maze, maze_from_rows, read_maze, shortest_path

PLANNING = "task-main"
SYMBOLS = {"@": START, "*": GOAL, "#": HOLE, "_": SAFE}


def folder_problems(data: VSPFolderData) -> Iterator[Problem]:
    """Maps (task-main) and questions (task1 to task4), task by task and level by level, in the order of their numbers.

    DataError names what is not as published.
    """
    for task in data.tasks:
        root = _maps(Path(data.source).expanduser(), task)
        for level in data.levels:
            pictures = root / f"level{level}" / "img"
            files = sorted(pictures.glob("*.png"), key=_number)
            if not files:
                raise DataError(f"{pictures} holds no PNG: expected the maps of level {level} there")
            for file in files[: data.per_level]:
                yield _problem(root, file, level) if task == PLANNING else _question(root, file, task, level)


def _maps(source: Path, task: str) -> Path:
    for candidate in (source / "maze" / task / "maps", source / task / "maps"):
        if any(candidate.glob("level*/img")):
            return candidate
    raise DataError(
        f"{source} holds no maze/{task}/maps/level*/img: expected a checkout of the original VSP repository"
    )


def _question(root: Path, file: Path, task: str, level: int) -> Problem:
    number = _number(file)
    data, _ = read_picture_file(Row(root / "maps", number, {}), "img", file.relative_to(root).as_posix())
    words = []
    for kind in ("question", "answer"):
        text = root / f"level{level}" / kind / f"{number}.txt"
        if not text.is_file() or not text.read_text(encoding="utf-8").strip():
            raise DataError(f"{file}: its {kind} is missing or empty; expected it in {text}")
        words.append(text.read_text(encoding="utf-8"))
    return vsp_questions.make_problem(f"vsp-{task}-{level}-{number:03d}", task, level, words[0], data, words[1])


def _number(file: Path) -> int:
    if not file.stem.isdecimal():
        raise DataError(f"{file}: expected a number as the file's name, as published")
    return int(file.stem)


def _problem(root: Path, file: Path, level: int) -> Problem:
    number = _number(file)
    row = Row(root / "maps", number, {})
    data, picture = read_picture_file(row, "img", file.relative_to(root).as_posix())
    table = root / f"level{level}" / "table" / f"{number}.txt"
    maze = read_table(table) if table.is_file() else read_maze(picture)
    path = shortest_path(maze)
    if maze.level != level or path is None:
        raise DataError(f"{file}: the map has level {maze.level} and {'a' if path else 'no'} way to the goal")
    return vsp_planning.make_problem(f"vsp-folder-{level}-{number:03d}", "test", maze, data, answer=path)


def read_table(file: Path) -> Maze:
    """The map that a table writes: the rows that hold its symbols, whatever stands between them."""
    rows = [
        [SYMBOLS[mark] for mark in line if mark in SYMBOLS] for line in file.read_text(encoding="utf-8").splitlines()
    ]
    rows = [row for row in rows if row]
    try:
        return maze_from_rows(rows)
    except InputError as error:
        raise DataError(f"{file}: {error}") from error


NAME = "vsp-questions"
TASKS = ("task1", "task2", "task3", "task4")
GROUPS = tuple(f"{task}-level-{level}" for task in TASKS for level in range(3, 9))
RULES = ("exact-text",)


def load(file: object, split: Split = "test") -> list[Problem]:
    """The questions of all tasks in a checkout of the repository; DataError names what is not as published."""
    # SELF
    from mirage_core.config import VSPFolderData

    data = VSPFolderData(source=str(file), tasks=TASKS)
    return [problem for problem in folder_problems(data) if problem.split == split]


def make_problem(identity: str, task: str, level: int, question: str, picture: bytes, answer: str) -> Problem:
    """A question about a map; the picture stands before its words."""
    return Problem(
        id=identity,
        benchmark=NAME,
        split="test",
        group=f"{task}-level-{level}",
        question=with_ending(f"<image>\n{question.strip()}", "direct"),
        images=(picture,),
        answer=answer.strip(),
        facts={},
    )


def prompt(problem: Problem, form: PromptForm, variant: Variant) -> str:
    """What a model is asked: the question's own words and the variant's ending."""
    check_form(form)
    return with_ending(problem.question, variant)


def score(problem: Problem, output: str, rule: str = RULES[0]) -> Score:
    """Compare the answer's text with the published one; planning rules are accepted, so that one setting serves all."""
    if rule not in (*RULES, "mirage", "vsp"):
        raise SettingsError(f"unknown rule {rule!r} for {NAME}; expected {RULES[0]}")
    lines = output.strip().splitlines()
    parsed = boxed(output) or (lines[-1].strip() if lines else None)
    correct = parsed is not None and _plain(parsed) == _plain(problem.answer)
    return Score(problem_id=problem.id, correct=correct, parsed=parsed, rule=RULES[0])


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(". ")
