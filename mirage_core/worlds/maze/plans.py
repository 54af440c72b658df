"""Random plans with a given outcome, for spatial reasoning.

As in the published rows, no move leaves the grid, and only the last move enters the goal or a hole.
"""

from __future__ import annotations

import numpy as np

from mirage_core.worlds.maze.rules import GOAL, HOLE, START, Maze, Outcome, grid_moves


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
    plan = []
    for left in range(lengths[int(rng.integers(len(lengths)))], 0, -1):
        options = [(move, there) for move, there in grid_moves(maze.level)[here] if counts[left - 1][there] > 0]
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
