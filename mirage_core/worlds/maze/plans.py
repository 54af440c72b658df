"""Random plans with a given outcome, for spatial reasoning.

As in the published rows, no move leaves the grid, and only the last move enters the goal or a hole. A plan's ``Shape``
is what its words alone tell: balanced plans have the same shapes whatever their outcome.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mirage_core.worlds.maze.rules import GOAL, HOLE, MOVES, START, Maze, Outcome, grid_moves

_PLANS_OF_A_MAZE = 24


@dataclass(frozen=True, slots=True)
class Shape:
    """What the words of a plan tell without the map: its length, how often it enters a cell it has been in, and
    whether the last move does (then the outcome can only be safe)."""

    length: int
    revisits: int
    ends_in_visited: bool


def shape_of(plan: str) -> Shape:
    """Return the shape of a plan."""
    cells = [(0, 0)]
    for move in plan:
        rows, columns = MOVES[move]
        cells.append((cells[-1][0] + rows, cells[-1][1] + columns))
    return Shape(len(plan), len(cells) - len(set(cells)), cells[-1] in cells[:-1])


def random_shape(rng: np.random.Generator, maze: Maze, max_length: int) -> Shape | None:
    """Return the shape of a random plan that reaches the goal, as plans of every outcome can have; None: no plan."""
    plan = random_plan(rng, maze, "success", max_length)
    return None if plan is None else shape_of(plan)


def random_plan_of(rng: np.random.Generator, maze: Maze, outcome: Outcome, shape: Shape) -> str | None:
    """Return a plan of this outcome and shape; None where a few draws give none, so that another maze is tried."""
    flat = [kind for row in maze.cells for kind in row]
    counts = _count_plans(flat, maze.level, outcome, shape.length)
    here = flat.index(START)
    if not counts[shape.length][here] > 0:
        return None
    plans = (_drawn(rng, maze.level, counts, here, shape.length) for _ in range(_PLANS_OF_A_MAZE))
    return next((plan for plan in plans if shape_of(plan) == shape), None)


def random_plan(rng: np.random.Generator, maze: Maze, outcome: Outcome, max_length: int) -> str | None:
    """Return a plan of at most ``max_length`` moves that ends in ``outcome``, None if the maze has none.

    The length is uniform over the lengths that have such a plan, and the plan is uniform over those of that length:
    backward counting makes the sampling exact, without rejection.
    """
    flat = [kind for row in maze.cells for kind in row]
    counts = _count_plans(flat, maze.level, outcome, max_length)
    here = flat.index(START)
    lengths = [length for length in range(1, max_length + 1) if counts[length][here] > 0]
    if not lengths:
        return None
    return _drawn(rng, maze.level, counts, here, lengths[int(rng.integers(len(lengths)))])


def _drawn(rng: np.random.Generator, level: int, counts: list[list[float]], here: int, length: int) -> str:
    """Return a plan of ``length`` moves from a cell, uniform over those that are counted."""
    plan = []
    for left in range(length, 0, -1):
        options = [(move, there) for move, there in grid_moves(level)[here] if counts[left - 1][there] > 0]
        weights = np.array([counts[left - 1][there] for _, there in options])
        move, here = options[int(rng.choice(len(options), p=weights / weights.sum()))]
        plan.append(move)
    return "".join(plan)


def _count_plans(flat: list[int], level: int, outcome: Outcome, max_length: int) -> list[list[float]]:
    """Return ``counts[n][cell]``: the number of plans of n moves from a cell to the outcome, up to a factor common to
    all cells (long plans would overflow).
    """
    targets = {"success": (GOAL,), "hole": (HOLE,), "safe": (0, START)}[outcome]
    counts = [[float(kind in targets) for kind in flat]]
    neighbours = grid_moves(level)
    for _ in range(max_length):
        scale = max(counts[-1]) or 1.0
        last = [count / scale for count in counts[-1]]
        counts.append(
            [
                0.0 if kind in (GOAL, HOLE) else sum(last[there] for _, there in neighbours[cell])
                for cell, kind in enumerate(flat)
            ]
        )
    return counts
