"""Mazes, and how a player moves in them.

A move off the grid does nothing; entering a hole ends the walk in failure. Cells are ``(row, column)``, counted
from 0 at the upper left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal

import numpy as np

from mirage_core.errors import InputError

SAFE, START, GOAL, HOLE = 0, 1, 2, -1
MOVES = {"U": (-1, 0), "D": (1, 0), "L": (0, -1), "R": (0, 1)}
SMALLEST, LARGEST = 3, 16
_SYMBOLS = {SAFE: ".", START: "S", GOAL: "G", HOLE: "H"}
_ATTEMPTS = 100_000

Cell = tuple[int, int]
Outcome = Literal["success", "hole", "safe"]


@dataclass(frozen=True, slots=True)
class Maze:
    """A square map: 1 start, 2 goal, -1 hole, 0 safe (the benchmark's ``map_desc``)."""

    cells: tuple[tuple[int, ...], ...]

    @property
    def level(self) -> int:
        """Cells of a side."""
        return len(self.cells)

    @property
    def start(self) -> Cell:
        """The cell where the player starts."""
        return self._find(START)

    @property
    def goal(self) -> Cell:
        """The cell that the player has to reach."""
        return self._find(GOAL)

    @property
    def holes(self) -> tuple[Cell, ...]:
        """Every hole, row by row."""
        return tuple((r, c) for r, row in enumerate(self.cells) for c, kind in enumerate(row) if kind == HOLE)

    def __getitem__(self, cell: Cell) -> int:
        """The kind of a cell."""
        return self.cells[cell[0]][cell[1]]

    def rows(self) -> list[list[int]]:
        """The map as JSON lists."""
        return [list(row) for row in self.cells]

    def _find(self, kind: int) -> Cell:
        for r, row in enumerate(self.cells):
            if kind in row:
                return r, row.index(kind)
        raise InputError(f"the map {self.rows()} has no cell {kind}; build maps with maze_from_rows, which checks them")


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk: the cells from the start on (one more than the moves made) and how it ended."""

    cells: tuple[Cell, ...]
    outcome: Outcome


def maze_from_rows(rows: Any) -> Maze:
    """Validate JSON lists as a maze; InputError for a wrong shape or cell, or not exactly one start and one goal."""
    if not isinstance(rows, Sequence) or not all(isinstance(row, Sequence) for row in rows):
        raise InputError(f"expected a map as a list of rows, got {rows!r}")
    level = len(rows)
    if not SMALLEST <= level <= LARGEST or any(len(row) != level for row in rows):
        raise InputError(
            f"expected a square map of {SMALLEST} to {LARGEST} cells a side, got rows of {[len(row) for row in rows]}"
        )
    flat = [kind for row in rows for kind in row]
    if any(type(kind) is not int or kind not in _SYMBOLS for kind in flat):
        raise InputError(f"expected cells 1 (start), 2 (goal), -1 (hole) or 0 (safe), got {rows!r}")
    for kind, name in ((START, "start (1)"), (GOAL, "goal (2)")):
        if flat.count(kind) != 1:
            raise InputError(f"expected exactly one {name} in the map, got {flat.count(kind)}: {rows!r}")
    return Maze(tuple(tuple(row) for row in rows))


def step(maze: Maze, cell: Cell, move: str) -> Cell:
    """Return the cell one move away, or the same cell if the move leaves the grid."""
    row, column = cell[0] + MOVES[move][0], cell[1] + MOVES[move][1]
    inside = 0 <= row < maze.level and 0 <= column < maze.level
    return (row, column) if inside else cell


def walk(maze: Maze, plan: str, *, stop_at_goal: bool = False) -> Walk:
    """Walk a plan of U, D, L, R from the start; a hole ends it, the goal only with ``stop_at_goal``.

    Without ``stop_at_goal`` the walk succeeds when its FINAL cell is the goal (Mirage's rule); with it, when the
    goal is entered at all before a hole (VSP's rule, and the game's own). Raises InputError for another letter.
    """
    unknown = set(plan) - set(MOVES)
    if unknown:
        raise InputError(f"expected a plan of the moves U, D, L, R, got {plan!r}")
    cells = [maze.start]
    for move in plan:
        cells.append(step(maze, cells[-1], move))
        kind = maze[cells[-1]]
        if kind == HOLE or (kind == GOAL and stop_at_goal):
            break
    outcomes: dict[int, Outcome] = {HOLE: "hole", GOAL: "success"}
    return Walk(tuple(cells), outcomes.get(maze[cells[-1]], "safe"))


def shortest_path(maze: Maze) -> str | None:
    """Return a shortest plan to the goal, None if there is none; among equals the first in the order U, D, L, R.

    The choice at a cell depends on that cell alone, so that one map has one answer however it is reached.
    """
    flat = [kind for row in maze.cells for kind in row]
    neighbours = grid_moves(maze.level)
    here, distance = flat.index(START), _distances(flat, neighbours)
    if distance[here] < 0:
        return None
    plan = []
    while distance[here]:
        move, here = next((m, there) for m, there in neighbours[here] if distance[there] == distance[here] - 1)
        plan.append(move)
    return "".join(plan)


def cells_by_distance(maze: Maze) -> list[list[Cell]]:
    """Return the cells from which the goal can be reached, by their moves to it: the goal, its neighbours, ..."""
    flat = [kind for row in maze.cells for kind in row]
    rings: list[list[Cell]] = []
    for here, distance in sorted(enumerate(_distances(flat, grid_moves(maze.level))), key=itemgetter(1)):
        if distance >= 0:
            rings.extend([] for _ in range(distance + 1 - len(rings)))
            rings[distance].append(divmod(here, maze.level))
    return rings


def _distances(flat: list[int], neighbours: tuple[tuple[tuple[str, int], ...], ...]) -> list[int]:
    """Return the moves to the goal from every cell (flat), -1 where it cannot be reached."""
    distance = [-1] * len(flat)
    frontier = [flat.index(GOAL)]
    distance[frontier[0]] = 0
    for here in frontier:
        for _, there in neighbours[here]:
            if distance[there] < 0 and flat[there] != HOLE:
                distance[there] = distance[here] + 1
                frontier.append(there)
    return distance


@lru_cache
def grid_moves(level: int) -> tuple[tuple[tuple[str, int], ...], ...]:
    """Return the moves that stay on the grid for every flat cell: ``(move, flat cell)`` in the order U, D, L, R."""
    return tuple(
        tuple(
            (move, (r + dr) * level + c + dc)
            for move, (dr, dc) in MOVES.items()
            if 0 <= r + dr < level and 0 <= c + dc < level
        )
        for r in range(level)
        for c in range(level)
    )


def random_maze(rng: np.random.Generator, level: int, hole_probability: float = 0.2) -> Maze:
    """Return a solvable maze with random start and goal; every other cell is a hole with the given probability."""
    for _ in range(_ATTEMPTS):
        flat = np.where(rng.random(level * level) < hole_probability, HOLE, SAFE)
        start, goal = rng.choice(level * level, size=2, replace=False)
        flat[start], flat[goal] = START, GOAL
        maze = Maze(tuple(map(tuple, flat.reshape(level, level).tolist())))
        if shortest_path(maze) is not None:
            return maze
    raise InputError(
        f"no solvable map of level {level} in {_ATTEMPTS} attempts with hole probability {hole_probability}; lower it"
    )


@lru_cache
def _symmetries(level: int) -> tuple[tuple[int, ...], ...]:
    """Return the 8 rotations and reflections of a grid, each as the flat cells in reading order."""
    grid = np.arange(level * level).reshape(level, level)
    turned = [np.rot90(grid, quarter) for quarter in range(4)]
    return tuple(tuple(g.ravel().tolist()) for t in turned for g in (t, t.T))


def canonical(maze: Maze) -> str:
    """Return a name that two mazes share exactly if a rotation or reflection turns one into the other."""
    flat = [_SYMBOLS[kind] for row in maze.cells for kind in row]
    return min("".join(itemgetter(*order)(flat)) for order in _symmetries(maze.level))


def orientations(maze: Maze) -> tuple[Maze, ...]:
    """Return the maze in its 8 rotations and reflections, itself first (some may be equal)."""
    flat = [kind for row in maze.cells for kind in row]
    level = maze.level
    turned = ([flat[i] for i in order] for order in _symmetries(level))
    return tuple(Maze(tuple(tuple(t[r * level : (r + 1) * level]) for r in range(level))) for t in turned)
