"""The targets of probes: facts about a problem that a hidden state may or may not encode."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.evaluation.pictures import picture_units
from mirage_core.types import Problem
from mirage_core.worlds.maze import HOLE, MOVES, Cell, Maze, maze_from_rows

MOST_CLASSES = 64
"""A fact with more classes than this is a text, not a category."""
_MAX_CLASS_LENGTH = 24  # characters of a text that may be a class


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact of every instance: ``labels`` [N], one class each; or ``signs`` [N, C], each 1, -1, or 0 for none."""

    name: str
    labels: tuple[str, ...] = ()
    signs: NDArray[np.float64] | None = None


def facts_of(problems: Sequence[Problem]) -> list[Fact]:
    """The facts of the problems of one benchmark: of their mazes, of their answers, and those in their data."""
    maze_facts = _maze_facts(problems) if _have_maps(problems) else []
    return [*maze_facts, *_answer_facts(problems), *_data_facts(problems)]


def unit_names(problems: Sequence[Problem]) -> list[str]:
    """Names that keep instances on one side of a split: those that share a picture or a map have one."""
    units = picture_units(problems).tolist()
    first = dict(zip(reversed(units), reversed(problems), strict=True))
    return [_name(first[unit]) for unit in units]


def _name(problem: Problem) -> str:
    return json.dumps(problem.facts["map"]) if "map" in problem.facts else problem.id


def _have_maps(problems: Sequence[Problem]) -> bool:
    names = (vsp_planning.NAME, vsp_reasoning.NAME)
    return all(problem.benchmark in names and "map" in problem.facts for problem in problems)


def _maze_facts(problems: Sequence[Problem]) -> list[Fact]:
    mazes = [maze_from_rows(problem.facts["map"]) for problem in problems]
    return [
        Fact("start cell", tuple(_cell(maze.start) for maze in mazes)),
        Fact("goal cell", tuple(_cell(maze.goal) for maze in mazes)),
        Fact("number of holes", tuple(str(len(maze.holes)) for maze in mazes)),
        Fact("hole at each cell", signs=_holes(mazes)),
    ]


def _cell(cell: Cell) -> str:
    return f"{cell[0]},{cell[1]}"


def _holes(mazes: Sequence[Maze]) -> NDArray[np.float64]:
    """1 for a hole, -1 for none, 0 where a smaller map has no such cell."""
    side = max(maze.level for maze in mazes)
    signs = np.zeros((len(mazes), side, side))
    for index, maze in enumerate(mazes):
        signs[index, : maze.level, : maze.level] = np.where(np.array(maze.cells) == HOLE, 1.0, -1.0)
    return signs.reshape(len(mazes), -1)


def _answer_facts(problems: Sequence[Problem]) -> list[Fact]:
    """The first move and the length of a plan; any other short answer itself."""
    answers = [problem.answer for problem in problems]
    if all(answer and set(answer) <= set(MOVES) for answer in answers) and _is_planning(problems):
        return [
            Fact("next move", tuple(answer[0] for answer in answers)),
            Fact("length of the plan", tuple(str(len(answer)) for answer in answers)),
        ]
    if all(len(answer) <= _MAX_CLASS_LENGTH for answer in answers):
        return [Fact("answer", tuple(answers))]
    return []


def _is_planning(problems: Sequence[Problem]) -> bool:
    return all(problem.benchmark == vsp_planning.NAME for problem in problems)


def _data_facts(problems: Sequence[Problem]) -> list[Fact]:
    """Categorical facts in the data of a benchmark: a word, a number or a flag that every problem has."""
    names = [name for name in problems[0].facts if name not in ("map", "plan")]
    return [
        Fact(name, tuple(str(problem.facts[name]) for problem in problems))
        for name in names
        if all(name in problem.facts and _is_small(problem.facts, name) for problem in problems)
    ]


def _is_small(facts: Mapping[str, object], name: str) -> bool:
    value = facts[name]
    return isinstance(value, (bool, int)) or (isinstance(value, str) and len(value) <= _MAX_CLASS_LENGTH)
