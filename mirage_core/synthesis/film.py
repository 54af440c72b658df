"""Films: what a chain imagines, step by step, as an ordered sequence of images.

Reasoning: the map after each move; planning: the arrows one by one; rotation: the pattern after each turn; folding: the
sheet after each unfolding; jigsaw: each candidate in its place. Where a world knows its state, labels go with the
frames: the cell that a frame is about, and the kind of that cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from mirage_core.benchmarks import jigsaw, mental_rotation, paper_folding, vsp_planning, vsp_reasoning
from mirage_core.config import AuxiliaryImageSettings
from mirage_core.image_files import read_rgb
from mirage_core.synthesis.labels import CELLS, KINDS
from mirage_core.synthesis.maze_images import draw_arrows, draw_distances, draw_map_after_step, maze_of
from mirage_core.types import Problem
from mirage_core.worlds.folding import SHAPES, draw_sheet, new_holes, regions, unfolded
from mirage_core.worlds.jigsaw import stitched
from mirage_core.worlds.maze import GOAL, HOLE, SAFE, START, Cell, Maze, cells_by_distance, picture_bytes, walk
from mirage_core.worlds.rotation import COLOURS, draw_pattern, patterns_after

KIND_NAMES = {SAFE: "ice", START: "start", GOAL: "goal", HOLE: "hole"}


@dataclass(frozen=True, slots=True)
class Film:
    """Encoded images in their order, and labels of the world's state: a list a name, as long as the film.

    A frame has one label, or a list of them where it is about several places.
    """

    frames: tuple[bytes, ...]
    labels: Mapping[str, list[Any]] = field(default_factory=dict)

    @property
    def details(self) -> dict[str, Any]:
        """What the details of an auxiliary image say about its film."""
        return {"frames": len(self.frames), **self.labels}


def film_of(problem: Problem, settings: AuxiliaryImageSettings, cell_px: int) -> Film:
    """Return the film of a problem whose benchmark's images are drawn (``DRAWN``); DataError without a map."""
    return DRAWN[problem.benchmark](problem, settings, cell_px)


def cells_of_moves(maze: Maze, plan: str) -> list[Cell]:
    """Return the cell that each frame of a reasoning film is about: one a move, the last again after the walk's end."""
    cells = list(walk(maze, plan, stop_at_goal=True).cells[1:])
    return [*cells, *[cells[-1]] * (len(plan) - len(cells))]


def cells_of_arrows(maze: Maze, plan: str, order: str) -> list[Cell]:
    """Return the cell that each frame of a planning film is about, from the start on or (``backward``) the goal on."""
    cells = walk(maze, plan).cells
    return list(reversed(cells[:-1])) if order == "backward" else list(cells[1:])


def _moves(problem: Problem, settings: AuxiliaryImageSettings, cell_px: int) -> Film:  # noqa: ARG001
    """The map after each move; the last cells again where the walk ended before the plan did."""
    maze, plan = maze_of(problem), problem.facts["plan"]
    images = [draw_map_after_step(maze, plan, step, cell_px) for step in range(1, len(plan) + 1)]
    return _film(images, maze, cells_of_moves(maze, plan))


def _arrows(problem: Problem, settings: AuxiliaryImageSettings, cell_px: int) -> Film:
    """The arrows one by one, from the start on, or from the goal on (``film: backward``); or a film of distances.

    A frame is about the cell that its new arrow leads to, or, backward, the cell that it leads from.
    """
    if settings.film == "wave":
        return _wave(maze_of(problem), cell_px)
    if settings.film == "search":
        return _search(problem, settings, cell_px)
    maze, plan = maze_of(problem), problem.answer
    backward = settings.film == "backward"
    shown = [slice(-n, None) if backward else slice(None, n) for n in range(1, len(plan) + 1)]
    images = [draw_arrows(maze, plan, settings, cell_px, part) for part in shown]
    return _film(images, maze, cells_of_arrows(maze, plan, settings.film))


def _wave(maze: Maze, cell_px: int, *, to_start: bool = False) -> Film:
    """The distances to the goal, spreading from it until nothing is left to reach: a frame tints all cells one move on.

    A frame is about all of its new cells, the first about the goal: each step follows from the one before by looking at
    neighbours alone, which the first step of a path does not. ``to_start``: only until the start is reached.
    """
    rings = cells_by_distance(maze)
    if to_start:
        rings = rings[: 1 + next(distance for distance, ring in enumerate(rings) if maze.start in ring)]
    images = [draw_distances(maze, rings[:end], cell_px) for end in range(1, len(rings) + 1)]
    labels: dict[str, list[Any]] = {
        CELLS: [[list(cell) for cell in ring] for ring in rings],
        KINDS: [[KIND_NAMES[maze[cell]] for cell in ring] for ring in rings],
    }
    return Film(tuple(map(picture_bytes, images)), labels)


def _search(problem: Problem, settings: AuxiliaryImageSettings, cell_px: int) -> Film:
    """A breadth-first search: the distances to the goal until the start is reached, then the arrows of the path.

    Each frame follows from those before by looking at neighbours: a step of the path leads to a cell that is one move
    nearer to the goal, as an earlier frame showed.
    """
    wave = _wave(maze_of(problem), cell_px, to_start=True)
    path = _arrows(problem, settings.model_copy(update={"film": "forward"}), cell_px)
    labels = {name: [*wave.labels[name], *path.labels[name]] for name in wave.labels}
    return Film((*wave.frames, *path.frames), labels)


def _turns(problem: Problem, settings: AuxiliaryImageSettings, cell_px: int) -> Film:  # noqa: ARG001
    """The pattern after each quarter turn; a frame is about the tile that is asked for: its cell, and its colour."""
    pattern, turns = mental_rotation.pattern_of(problem.facts), problem.facts["turns"]
    cells = mental_rotation.asked_cells(problem.facts)
    colour = COLOURS[pattern[cells[0]]]
    labels: dict[str, list[Any]] = {CELLS: [list(cell) for cell in cells[1:]], KINDS: [colour] * len(turns)}
    images = [draw_pattern(after, cell_px) for after in patterns_after(pattern, turns)]
    return Film(tuple(map(picture_bytes, images)), labels)


def _unfoldings(problem: Problem, settings: AuxiliaryImageSettings, cell_px: int) -> Film:  # noqa: ARG001
    """The sheet after each unfolding; a frame is about the holes that it is the first to show, and their shapes."""
    holes, folds = paper_folding.sheet_of(problem.facts)
    sheets, places = unfolded(holes, folds), regions(len(holes), folds)[-2::-1]
    shown = list(zip(sheets[1:], new_holes(sheets), strict=True))
    labels: dict[str, list[Any]] = {
        CELLS: [[list(cell) for cell in cells] for _, cells in shown],
        KINDS: [[SHAPES[sheet[cell] - 1] for cell in cells] for sheet, cells in shown],
    }
    images = [draw_sheet(sheet, place, cell_px) for (sheet, _), place in zip(shown, places, strict=True)]
    return Film(tuple(map(picture_bytes, images)), labels)


def _candidates(problem: Problem, settings: AuxiliaryImageSettings, cell_px: int) -> Film:  # noqa: ARG001
    """The reference with each candidate in its place, in the order of the options."""
    reference, *pieces = (read_rgb(image, f"an image of problem {problem.id}") for image in problem.images)
    return Film(tuple(picture_bytes(stitched(reference, [piece])) for piece in pieces))


def _film(images: Sequence[Image.Image], maze: Maze, cells: Sequence[Cell]) -> Film:
    labels: dict[str, list[Any]] = {
        CELLS: [list(cell) for cell in cells],
        KINDS: [KIND_NAMES[maze[cell]] for cell in cells],
    }
    return Film(tuple(map(picture_bytes, images)), labels)


DRAWN: dict[str, Callable[[Problem, AuxiliaryImageSettings, int], Film]] = {
    vsp_planning.NAME: _arrows,
    vsp_reasoning.NAME: _moves,
    mental_rotation.NAME: _turns,
    paper_folding.NAME: _unfoldings,
    jigsaw.NAME: _candidates,
}
"""The films that are drawn, by benchmark."""
