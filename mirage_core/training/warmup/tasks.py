"""The tasks of the warm-up: copying a map, and reading the arrows of a random walk. Neither needs planning.

A walk starts at the start and ends anywhere: its arrows are drawn like a solution's, but do not solve the map.
Every map is one that training problems may use (benchmarks/splits.py), so no map of another split is ever seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirage_core.benchmarks.splits import split_of_form
from mirage_core.config import AuxiliaryImageSettings, WarmupSettings
from mirage_core.synthesis.maze_images import draw_arrows
from mirage_core.worlds.maze import GOAL, HOLE, MOVES, SAFE, START, Cell, Maze, Player, canonical, render, step

Task = Literal["Map", "Walk"]
SYMBOLS = {SAFE: ".", START: "S", GOAL: "G", HOLE: "#"}
KINDS = (SAFE, START, GOAL, HOLE)
_MOVES = tuple(MOVES)
_ELF_ELSEWHERE = 0.5


@dataclass(frozen=True)
class CellFacts:
    """What is in each cell of an image, row by row: the labels of the dense heads.

    ``kind`` [n] index into KINDS; ``elf`` [n] 0 or 1; ``arrows`` [n, 8] 0 or 1: an arrow leaves by, then enters by
    U, D, L, R.
    """

    kind: NDArray[np.int64]
    elf: NDArray[np.float32]
    arrows: NDArray[np.float32]


@dataclass(frozen=True)
class Exercise:
    """An image with its question (``task``), the right answer and the facts of its cells."""

    task: Task
    level: int
    image: Image.Image
    answer: str
    facts: CellFacts


class ExerciseSource:
    """Exercises as a function of (seed, step, index in the batch) alone; all of a step have one level.

    ``excluded`` are canonical maps that must not be drawn, beside those of the other splits.
    """

    def __init__(
        self,
        settings: WarmupSettings,
        arrows: AuxiliaryImageSettings,
        hole_probability: float,
        cell_px: int,
        excluded: frozenset[str],
        seed: int,
    ) -> None:
        self._settings, self._arrows, self._cell_px = settings, arrows, cell_px
        self._hole_probability, self._excluded, self._seed = hole_probability, excluded, seed

    def level(self, step: int) -> int:
        """Return the level of all maps of a step."""
        return int(np.random.default_rng([self._seed, step]).choice(self._settings.levels))

    def exercise(self, step: int, index: int) -> Exercise:
        """Return an exercise of a step: one half copies maps, the other reads walks."""
        rng = np.random.default_rng([self._seed, step, index])
        maze = self._maze(rng, self.level(step))
        return self._copying(rng, maze) if rng.random() < 0.5 else self._reading(rng, maze)

    def _maze(self, rng: np.random.Generator, level: int) -> Maze:
        """Draw a map of the level that is in the train split, solvable or not."""
        while True:
            flat = np.where(rng.random(level * level) < self._hole_probability, HOLE, SAFE)
            flat[rng.choice(level * level, size=2, replace=False)] = START, GOAL
            maze = Maze(tuple(map(tuple, flat.reshape(level, level).tolist())))
            form = canonical(maze)
            if split_of_form(form) == "train" and form not in self._excluded:
                return maze

    def _copying(self, rng: np.random.Generator, maze: Maze) -> Exercise:
        """Copy the map in symbols; in half of the images the elf stands anywhere, as in those of spatial reasoning."""
        player = Player(maze.start)
        if rng.random() < _ELF_ELSEWHERE:
            row, column = (int(i) for i in rng.integers(maze.level, size=2))
            player = Player((row, column), _MOVES[int(rng.integers(len(_MOVES)))])
        image = render(maze, self._cell_px, player)
        answer = "\n".join("".join(SYMBOLS[kind] for kind in row) for row in maze.cells)
        return Exercise("Map", maze.level, image, answer, _facts(maze, player.cell, (), ""))

    def _reading(self, rng: np.random.Generator, maze: Maze) -> Exercise:
        """Read the moves of a random walk from its arrows, boxed as every answer of this project."""
        cells, plan = random_walk(rng, maze, self._settings.walk_length_max)
        image = draw_arrows(maze, plan, self._arrows, self._cell_px)
        return Exercise("Walk", maze.level, image, f"\\boxed{{{plan}}}", _facts(maze, maze.start, cells, plan))


def random_walk(rng: np.random.Generator, maze: Maze, length_max: int) -> tuple[tuple[Cell, ...], str]:
    """Draw a walk of 1 to ``length_max`` moves that enters no hole and no cell twice; shorter where it is stuck."""
    cells, plan = [maze.start], ""
    for _ in range(int(rng.integers(1, length_max + 1))):
        there = {move: step(maze, cells[-1], move) for move in MOVES}
        free = [move for move, cell in there.items() if cell not in cells and maze[cell] != HOLE]
        if not free:
            break
        move = free[int(rng.integers(len(free)))]
        cells.append(there[move])
        plan += move
    return tuple(cells), plan


def _facts(maze: Maze, elf: Cell, cells: tuple[Cell, ...], plan: str) -> CellFacts:
    level = maze.level
    arrows = np.zeros((level, level, 2 * len(_MOVES)), dtype=np.float32)
    for here, there, move in zip(cells, cells[1:], plan, strict=False):
        arrows[here][_MOVES.index(move)] = 1.0
        arrows[there][len(_MOVES) + _MOVES.index(move)] = 1.0
    elf_cells = np.zeros((level, level), dtype=np.float32)
    elf_cells[elf] = 1.0
    kind = np.array([KINDS.index(kind) for row in maze.cells for kind in row], dtype=np.int64)
    return CellFacts(kind, elf_cells.ravel(), arrows.reshape(level * level, -1))
