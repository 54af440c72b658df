"""The answer that an imagined film says: what follows from its steps by the rules of the world alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise

from mirage_core.analysis.imagined.records import ImaginedStep, up_to_end
from mirage_core.benchmarks import mental_rotation, vsp_planning, vsp_reasoning
from mirage_core.benchmarks.multiple_choice import options_of
from mirage_core.synthesis.film import KIND_NAMES
from mirage_core.types import Problem
from mirage_core.worlds.maze import GOAL, HOLE, MOVES, Cell, Maze, maze_from_rows

Grid = Sequence[Sequence[float]]
_OUTCOMES = {KIND_NAMES[HOLE]: "hole", KIND_NAMES[GOAL]: "success"}


def implied_answer(problem: Problem, film: Sequence[ImaginedStep], order: str) -> str | None:
    """Return the answer that a film of a maze or a rotation says; None where it says none, or no rules are known.

    Reasoning: the first hole or goal that is imagined decides (kinds; without them the map's cell at each place).
    Planning: the moves from the start through the imagined places to the goal; of a wave, from the start always to the
    neighbour that is likeliest one frame nearer to the goal; of a search, through the places after the start is
    reached. Rotation: the colour that is imagined last. ``order``: as the film was trained.
    """
    if problem.benchmark == mental_rotation.NAME and "options" in problem.facts:
        return _colour(problem, up_to_end(film))
    if "map" not in problem.facts or not film:
        return None
    maze = maze_from_rows(problem.facts["map"])
    if problem.benchmark == vsp_reasoning.NAME:
        return _outcome(maze, up_to_end(film))
    if problem.benchmark == vsp_planning.NAME and order == "wave":
        return _descent(maze, [step.places for step in film])
    if problem.benchmark == vsp_planning.NAME and order == "search":
        film = _after_start(maze, film)
    if problem.benchmark == vsp_planning.NAME and all(step.place is not None for step in film):
        places = [step.place for step in film if step.place is not None]
        return _plan(maze, [place for place, _ in groupby(places)], order)
    return None


def _colour(problem: Problem, film: Sequence[ImaginedStep]) -> str | None:
    """Return the letter of the colour that the last step names."""
    named = film[-1].kinds[0].name if film and film[-1].kinds else None
    return next((letter for letter, colour in options_of(problem).items() if colour == named), None)


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


def _descent(maze: Maze, distances: Sequence[Grid]) -> str | None:
    """Return the moves from the start down the imagined distances; None where the wave does not come beside it.

    The wave may end one move before the start: nothing after that cell is needed.
    """
    if not all(distances):
        return None
    reached = _reached(maze, distances)
    moves, cell = [], maze.start
    for grid in reversed(distances[:reached]):
        around = {move: (cell[0] + down, cell[1] + right) for move, (down, right) in MOVES.items()}
        chances = {move: _of(grid, there) for move, there in around.items()}
        moves.append(max(chances, key=chances.__getitem__))
        if reached is None and not moves[1:] and chances[moves[-1]] <= _likely(distances[-1]):
            return None
        cell = around[moves[-1]]
    return "".join(moves) if cell == maze.goal else None


def _reached(maze: Maze, distances: Sequence[Grid]) -> int | None:
    """The number of the first frame in which the start is likely; None: of no frame."""
    starts = (_of(grid, maze.start) > _likely(grid) for grid in distances)
    return next((number for number, start in enumerate(starts) if start), None)


def _likely(grid: Grid) -> float:
    """The probability from which a cell counts as one of a frame's: half that of the likeliest."""
    return max(map(max, grid)) / 2


def _after_start(maze: Maze, film: Sequence[ImaginedStep]) -> Sequence[ImaginedStep]:
    """The steps of a search after its distances have reached the start: its path; none where they never do."""
    if not all(step.places for step in film):
        return ()
    reached = _reached(maze, [step.places for step in film])
    return () if reached is None else film[reached + 1 :]


def _of(grid: Grid, cell: Cell) -> float:
    """The probability of a cell; below that of any on the map where it is none."""
    inside = 0 <= cell[0] < len(grid) and 0 <= cell[1] < len(grid[0])
    return grid[cell[0]][cell[1]] if inside else -1.0


def _move(before: Cell, after: Cell) -> str | None:
    step = (after[0] - before[0], after[1] - before[1])
    return next((move for move, delta in MOVES.items() if tuple(delta) == step), None)
