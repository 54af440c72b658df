"""The answer that an imagined film says: what follows from its steps by the rules of the world alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

from mirage_core.analysis.imagined.records import ImaginedStep, up_to_end
from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.synthesis.film import KIND_NAMES
from mirage_core.types import Problem
from mirage_core.worlds.maze import GOAL, HOLE, MOVES, Cell, Maze, maze_from_rows

_OUTCOMES = {KIND_NAMES[HOLE]: "hole", KIND_NAMES[GOAL]: "success"}


def implied_answer(problem: Problem, film: Sequence[ImaginedStep], order: str) -> str | None:
    """Return the answer that a film of a maze says; None where it says none, or the world's rules are not known.

    Reasoning: the first hole or goal that is imagined decides (kinds; without them the map's cell at each place).
    Planning: the moves from the start through the imagined places to the goal. ``order``: as the film was trained.
    """
    if "map" not in problem.facts or not film:
        return None
    maze = maze_from_rows(problem.facts["map"])
    if problem.benchmark == vsp_reasoning.NAME:
        return _outcome(maze, up_to_end(film))
    if problem.benchmark == vsp_planning.NAME and all(step.place is not None for step in film):
        places = [step.place for step in film if step.place is not None]
        return _plan(maze, [place for place, _ in groupby(places)], order)
    return None


def _outcome(maze: Maze, film: Sequence[ImaginedStep]) -> str | None:
    if not all(step.kinds or step.place for step in film):
        return None
    kinds = [kind_of(maze, step) for step in film]
    if any(kind not in KIND_NAMES.values() for kind in kinds):
        return None
    decided = next((_OUTCOMES[kind] for kind in kinds if kind in _OUTCOMES), "safe")
    return vsp_reasoning.LETTERS[decided]  # type: ignore[index]


def kind_of(maze: Maze, step: ImaginedStep) -> str | None:
    """Return the kind of cell that a step imagines; that of the map at its place where heads name no kinds."""
    if step.kinds and step.kinds[0].name in KIND_NAMES.values():
        return step.kinds[0].name
    on_map = step.place is not None and max(step.place) < maze.level
    return KIND_NAMES[maze[step.place]] if on_map and step.place is not None else None


def _plan(maze: Maze, places: Sequence[Cell], order: str) -> str | None:
    """Return the moves through the places; None where two are no neighbours, or the goal is not reached."""
    if order == "backward":
        first = places.index(maze.start) + 1 if maze.start in places else len(places)
        path = [*reversed(places[:first]), maze.goal]
    else:
        last = places.index(maze.goal) + 1 if maze.goal in places else len(places)
        path = [maze.start, *places[:last]]
    moves = [_move(a, b) for a, b in pairwise(path)]
    whole = path[0] == maze.start and path[-1] == maze.goal and None not in moves
    return "".join(move for move in moves if move) if whole else None


def _move(before: Cell, after: Cell) -> str | None:
    step = (after[0] - before[0], after[1] - before[1])
    return next((move for move, delta in MOVES.items() if tuple(delta) == step), None)
