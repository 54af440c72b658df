"""VSP spatial reasoning: an image of a maze and a plan, and the plan's outcome: A success, B a hole, C neither.

Published as JSONL with ``text_input``, ``text_output``, ``image_input``, ``image_output``; the map is in the image
only.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from PIL import Image

from mirage_core.benchmarks.answer_parsing import boxed
from mirage_core.benchmarks.benchmark import OFFICIAL, Benchmark, check_rule
from mirage_core.benchmarks.io.faults import converted
from mirage_core.benchmarks.io.jsonl import Row, read_image, read_question, read_rows
from mirage_core.benchmarks.reading import earlier
from mirage_core.benchmarks.reading.letters import read_letter
from mirage_core.benchmarks.regions import Region, cell_boxes
from mirage_core.benchmarks.vsp_prompts import REASONING, PromptForm, check_form, with_ending
from mirage_core.errors import DataError
from mirage_core.types import Problem, Score, Split, Variant
from mirage_core.worlds.maze import LARGEST, SMALLEST, Maze, Outcome, maze_from_rows, read_maze, walk
from mirage_core.worlds.maze.reading import image_level

NAME = "vsp-reasoning"
GROUPS = tuple(f"level-{level}" for level in range(SMALLEST, LARGEST + 1))
RULES = ("option-letter", "option-letter-1")
OPTIONS = {
    "A": "Action Success.",
    "B": "Action Failed. Falling into a hole.",
    "C": "Action Failed. Player safe but faile to reach the goal.",
}
LETTERS: dict[Outcome, str] = {"success": "A", "hole": "B", "safe": "C"}
WORDS = {"U": "UP", "D": "DOWN", "L": "LEFT", "R": "RIGHT"}


def load(file: Path, split: Split = "test") -> list[Problem]:
    """The rows of a published file, each checked; raises DataError naming file and line.

    The level comes from the image's size, the answer from ``text_output``'s box, the plan from the question. The map
    (fact ``map``) is read from the image, and is absent if that does not show the benchmark's art.
    """
    return [*converted(read_rows(file), lambda row: _problem_of_row(row, split))]


def _problem_of_row(row: Row, split: Split) -> Problem:
    question, (encoded, image) = read_question(row), read_image(row)
    level = _level(row, image)
    answer = earlier.letter_of(boxed(row.text("text_output")) or "", OPTIONS)
    if answer is None:
        raise DataError(f"{row.where}: text_output boxes none of {', '.join(OPTIONS)}; add the answer as \\boxed{{A}}")
    facts: dict[str, Any] = {"plan": _plan_in(question, row)}
    # Scoring needs no map; chains and auxiliary images do, and report its absence.
    with contextlib.suppress(DataError):
        facts["map"] = read_maze(image).rows()
    return _problem(f"{row.file.stem}-{row.line:05d}", split, level, question, encoded, answer, facts)


def read_map(row: Row) -> Maze:
    """The maze in the row's image; DataError if it shows none."""
    _, image = read_image(row)
    try:
        return read_maze(image)
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from error


def _level(row: Row, image: Image.Image) -> int:
    try:
        return image_level(image)
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from error


def _plan_in(question: str, row: Row) -> str:
    """The letters of "Full Action Plan: RIGHT, UP"."""
    match = re.search(r"Full Action Plan:\s*([^\n]*)", question)
    words = [word.strip() for word in match.group(1).split(",")] if match else []
    letters = {word: letter for letter, word in WORDS.items()}
    if not words or any(word not in letters for word in words):
        raise DataError(
            f"{row.where}: no plan found; expected 'Full Action Plan: RIGHT, UP' in text_input, got {words}"
        )
    return "".join(letters[word] for word in words)


def answer_of(maze: Maze, plan: str) -> str:
    """The letter of a plan's outcome: the first hole or goal entered decides, as in the game."""
    return LETTERS[walk(maze, plan, stop_at_goal=True).outcome]


def make_problem(identity: str, split: Split, maze: Maze, image: bytes, plan: str, answer: str) -> Problem:
    """A reasoning problem about a maze and a plan, with the published question."""
    words = ", ".join(WORDS[move] for move in plan)
    question = with_ending(REASONING.replace("{plan}", words), "direct")
    return _problem(identity, split, maze.level, question, image, answer, {"map": maze.rows(), "plan": plan})


def _problem(
    identity: str, split: Split, level: int, question: str, image: bytes, answer: str, facts: dict[str, Any]
) -> Problem:
    return Problem(
        id=identity,
        benchmark=NAME,
        split=split,
        group=f"level-{level}",
        question=question,
        images=(image,),
        answer=answer,
        facts=facts,
    )


def prompt(problem: Problem, form: PromptForm, variant: Variant) -> str:
    """The prompt, with one ``<image>``: the problem's question and the variant's ending, or the short form."""
    check_form(form)
    if form == "short":
        return f"<image>\nPlan: {problem.facts['plan']}\nOutcome:"
    return with_ending(problem.question, variant)


def score(problem: Problem, output: str, rule: str = RULES[0]) -> Score:
    """Compare the chosen letter with the answer; no readable letter is unparsed, hence wrong.

    Mirage's authors have published no scoring of this task: ``official`` is the default.
    """
    check_rule(rule, (*RULES, OFFICIAL), NAME)
    applied = RULES[1] if rule == RULES[1] else RULES[0]
    letter = (earlier.option_letter if applied == RULES[1] else read_letter)(output, OPTIONS)
    return Score(problem_id=problem.id, correct=letter == problem.answer, parsed=letter, rule=applied)


def walk_regions(problem: Problem) -> tuple[Region, ...]:
    """Return one region: the cells that the plan walks over, from the start on; none without a map."""
    if "map" not in problem.facts:
        return ()
    maze = maze_from_rows(problem.facts["map"])
    return (cell_boxes(walk(maze, problem.facts["plan"], stop_at_goal=True).cells, maze.level),)


BENCHMARK = Benchmark(NAME, GROUPS, RULES, load, score, prompt, official=RULES[0], own_regions=walk_regions)
