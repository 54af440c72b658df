"""Paths that a model did not choose: another plan to the goal, a walk that misses it, or a path of another outcome.

They are drawn by a seed, on the map of the problem itself. Legend: k latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from mirage_core.analysis.imagined.implied import implied_answer
from mirage_core.analysis.imagined.latent_bank import Content, imagined_as
from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.config import StepwiseSettings
from mirage_core.synthesis.film import KIND_NAMES, cells_of_arrows, cells_of_moves
from mirage_core.training.stepwise.targets import frames_of_latents
from mirage_core.types import Problem
from mirage_core.worlds.maze import GOAL, HOLE, SAFE, Cell, Maze, Outcome, maze_from_rows, step

FilmOf = Literal["plan", "walk", "outcome"]
_ENDS: dict[Outcome, int] = {"success": GOAL, "hole": HOLE, "safe": SAFE}
_TRIED = 100  # paths of one length and end
_VISITED = 2_000  # cells that a search enters before it gives up


@dataclass(frozen=True, slots=True)
class OtherPath:
    """A path: what it is, what each of k latents has to imagine, and the answer that such a film says."""

    film: FilmOf
    contents: tuple[Content, ...]
    says: str


def other_paths(
    problem: Problem, answer: str | None, latents: int, order: str, stepwise: StepwiseSettings, seed: int
) -> Iterator[OtherPath]:
    """Yield paths of up to ``latents`` moves in an order drawn by ``seed``; lengths near the problem's own come first.

    Planning: ways to the goal, then walks that miss it (not for films from the goal on), none of them the model's
    ``answer``. Reasoning: paths of another outcome than the right one.
    """
    maze = maze_from_rows(problem.facts["map"])
    rng = np.random.default_rng([seed, *problem.id.encode()])
    planning = problem.benchmark == vsp_planning.NAME
    own = problem.answer if planning else problem.facts["plan"]
    lengths = sorted(range(1, latents + 1), key=lambda length: (abs(length - len(own)), length))
    for film, end in _wanted(problem, order, rng):
        for length in lengths:
            for plan in islice(walks(maze, length, end, rng), _TRIED):
                cells = cells_of_arrows(maze, plan, order) if planning else cells_of_moves(maze, plan)
                contents = _contents(maze, cells, latents, stepwise)
                said = plan if film == "walk" else implied_answer(problem, imagined_as(contents), order)
                if said is not None and not (planning and answer == said) and (film != "plan" or said == plan):
                    yield OtherPath(film, contents, said)


def _wanted(problem: Problem, order: str, rng: np.random.Generator) -> list[tuple[FilmOf, int]]:
    if problem.benchmark == vsp_planning.NAME:
        walk: list[tuple[FilmOf, int]] = [] if order == "backward" else [("walk", SAFE)]
        return [("plan", GOAL), *walk]
    others = [end for outcome, end in _ENDS.items() if vsp_reasoning.LETTERS[outcome] != problem.answer]
    return [("outcome", others[at]) for at in rng.permutation(len(others)).tolist()]


def _contents(maze: Maze, cells: Sequence[Cell], latents: int, stepwise: StepwiseSettings) -> tuple[Content, ...]:
    """What each latent of a film of ``cells`` is about; after its end, its last cell also where a latent is free."""
    chosen = frames_of_latents(len(cells), latents, stepwise)
    frames = [cells[-1 if frame is None else frame] for frame in chosen]
    place = stepwise.weight_where > 0
    return tuple((cell if place else None, KIND_NAMES[maze[cell]]) for cell in frames)


def walks(maze: Maze, length: int, end: int, rng: np.random.Generator) -> Iterator[str]:
    """Yield plans of ``length`` moves that enter no cell twice and end in a cell of kind ``end``, in a drawn order.

    Only the last move enters a hole or the goal, as in the plans of the benchmark. The search ends after a fixed number
    of cells.
    """
    left = [_VISITED]

    def go(path: list[Cell], plan: str) -> Iterator[str]:
        left[0] -= 1
        if len(plan) == length:
            if maze[path[-1]] == end:
                yield plan
            return
        if (
            left[0] < 0
            or (plan and maze[path[-1]] in (GOAL, HOLE))
            or _too_far(maze, path[-1], end, length - len(plan))
        ):
            return
        for at in rng.permutation(4).tolist():
            there = step(maze, path[-1], "UDLR"[at])
            if there not in path:
                yield from go([*path, there], plan + "UDLR"[at])

    yield from go([maze.start], "")


def _too_far(maze: Maze, cell: Cell, end: int, moves: int) -> bool:
    """Whether the goal cannot be reached in exactly so many moves: it is further away, or of the other parity."""
    if end != GOAL:
        return False
    distance = abs(cell[0] - maze.goal[0]) + abs(cell[1] - maze.goal[1])
    return distance > moves or (moves - distance) % 2 == 1
