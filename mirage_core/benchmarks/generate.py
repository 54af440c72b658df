"""Generated problems: solvable mazes, level by level, whose splits share no map.

Every (benchmark, split, level) has its own random generator, so a change of one does not affect the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.benchmarks.io.jsonl import read_rows
from mirage_core.benchmarks.splits import split_of_form
from mirage_core.config import BenchmarkData, ProblemSettings, ReasoningData
from mirage_core.errors import DataError
from mirage_core.types import Problem, Progress, ProgressEvent, Split
from mirage_core.worlds.maze import (
    Maze,
    Outcome,
    Shape,
    canonical,
    picture_bytes,
    random_maze,
    random_plan,
    random_plan_of,
    random_shape,
    render,
    shortest_path,
)

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
OUTCOMES: tuple[Outcome, ...] = ("success", "hole", "safe")
_DRAWS = 50_000
_SHAPES = 50  # tried for three plans of one shape, so that as many mazes are drawn at most for each outcome
_REPORT_EVERY = 100


def generate_problems(settings: ProblemSettings, seed: int, progress: Progress) -> list[Problem]:
    """Return every generated problem of the settings."""
    return list(generated_problems(settings, seed, progress))


def generated_problems(settings: ProblemSettings, seed: int, progress: Progress) -> Iterator[Problem]:
    """Yield every generated problem: benchmark by benchmark, split by split, alternating between levels.

    Maps are distinct (up to rotation and reflection) inside validation and test; train may repeat a map. Raises
    DataError if a level has too few maps left, or an excluded file cannot be read.
    """
    excluded = excluded_forms([Path(name) for name in settings.exclude])
    parts = [
        (name, split, data)
        for name, data in ((vsp_planning.NAME, settings.vsp_planning), (vsp_reasoning.NAME, settings.vsp_reasoning))
        if data is not None
        for split in SPLITS
    ]
    total = sum(count for _, split, data in parts for count in level_counts(data, split).values())
    done = 0
    for name, split, data in parts:
        for problem in _problems_of_split(name, split, data, settings, seed, excluded):
            yield problem
            done += 1
            if done % _REPORT_EVERY == 0 or done == total:
                progress(ProgressEvent(stage="problems", message=f"{name} {split}", step=done, total=total))


def excluded_forms(files: list[Path]) -> frozenset[str]:
    """The canonical maps of published files: from ``map_desc``, or from the image of a row without it."""
    return frozenset(
        canonical(vsp_planning.read_map(row) if "map_desc" in row.values else vsp_reasoning.read_map(row))
        for file in files
        for row in read_rows(file)
    )


def level_counts(data: BenchmarkData, split: Split) -> dict[int, int]:
    """The number of problems of each level in a split; a level named twice gets two shares.

    The first levels get the remainder.
    """
    if split == "test":
        return dict.fromkeys(data.test_levels, data.test_per_level)
    levels = data.train_levels
    count = data.train if split == "train" else data.validation
    if count and not levels:
        raise DataError(f"{count} {split} problems are asked for, but train_levels is empty; name at least one level")
    counts = dict.fromkeys(levels, 0)
    for index, level in enumerate(levels):
        counts[level] += count // len(levels) + (index < count % len(levels))
    return counts


def _problems_of_split(
    name: str, split: Split, data: BenchmarkData, settings: ProblemSettings, seed: int, excluded: frozenset[str]
) -> Iterator[Problem]:
    """Yield the problems of one benchmark and split, alternating between levels."""
    counts = level_counts(data, split)
    balanced = isinstance(data, ReasoningData) and data.plans == "balanced"
    begin, levels = 0, {}
    for level, count in counts.items():
        part = _Level(name=name, split=split, level=level, settings=settings, excluded=excluded, balanced=balanced)
        levels[level] = _draw_level(part, count, begin, seed)
        begin += count
    for turn in range(max(counts.values(), default=0)):
        for level, mazes in levels.items():
            if turn < len(mazes):
                yield _problem(f"{name}-{split}-{level}-{turn:05d}", name, split, *mazes[turn], settings.cell_px)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    """What the mazes of one level are drawn for: a benchmark's split, with the settings and maps to leave out."""

    name: str
    split: Split
    level: int
    settings: ProblemSettings
    excluded: frozenset[str]
    balanced: bool


def _draw_level(part: _Level, count: int, begin: int, seed: int) -> list[tuple[Maze, str]]:
    """Draw the mazes of one level with their plans; ``begin`` continues the cycle of outcomes from the last level."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{part.name}/{part.split}".encode()), part.level])
    taken = set(part.excluded)
    mazes: list[tuple[Maze, str]] = []
    while len(mazes) < count:
        outcomes = [OUTCOMES[(begin + len(mazes) + turn) % len(OUTCOMES)] for turn in range(len(OUTCOMES))]
        drawn = _draw_alike(rng, part, outcomes, taken) if part.balanced else _draw_one(rng, part, outcomes[0], taken)
        if drawn is None:
            raise DataError(_too_few(part, len(mazes), count))
        mazes += drawn
        if part.split != "train":
            taken |= {canonical(maze) for maze, _ in drawn}
    return mazes[:count]


def _draw_one(
    rng: np.random.Generator, part: _Level, outcome: Outcome, taken: set[str]
) -> list[tuple[Maze, str]] | None:
    """Draw one maze with its plan; None if many draws gave none."""
    drawn = _draw(rng, part, outcome, taken, draws=_DRAWS)
    return None if drawn is None else [drawn]


def _draw_alike(
    rng: np.random.Generator, part: _Level, outcomes: Sequence[Outcome], taken: set[str]
) -> list[tuple[Maze, str]] | None:
    """Draw a maze and a plan for each outcome, all plans of one shape; None if many shapes gave none.

    A shape that one outcome does not have in the mazes left is dropped for all of them, so outcomes stay balanced.
    """
    for _ in range(_SHAPES):
        shape = random_shape(rng, random_maze(rng, part.level, part.settings.hole_probability), _longest(part))
        if shape is None:
            continue
        forms, mazes = set(taken), []
        for outcome in outcomes:
            drawn = _draw(rng, part, outcome, forms, draws=_DRAWS // _SHAPES, shape=shape)
            if drawn is None:
                break
            mazes.append(drawn)
            forms |= {canonical(drawn[0])} if part.split != "train" else set()
        if len(mazes) == len(outcomes):
            return mazes
    return None


def _draw(
    rng: np.random.Generator,
    part: _Level,
    outcome: Outcome,
    taken: set[str],
    *,
    draws: int,
    shape: Shape | None = None,
) -> tuple[Maze, str] | None:
    """Draw a maze of the split that is not taken, with its plan (of this ``shape``); None if the draws gave none."""
    for _ in range(draws):
        maze = random_maze(rng, part.level, part.settings.hole_probability)
        form = canonical(maze)
        if form in taken or split_of_form(form) != part.split:
            continue
        if part.name == vsp_planning.NAME:
            plan = shortest_path(maze)
        elif shape is not None:
            plan = random_plan_of(rng, maze, outcome, shape)
        else:
            plan = random_plan(rng, maze, outcome, _longest(part))
        if plan is not None:
            return maze, plan
    return None


def _longest(part: _Level) -> int:
    return part.settings.plan_length_max


def _too_few(part: _Level, got: int, expected: int) -> str:
    distinct = "different " if part.split != "train" else ""
    return (
        f"{part.name}: {expected} {distinct}{part.split} maps of level {part.level} are wanted, but after {got} no "
        f"other was found in {_DRAWS} draws (hole probability {part.settings.hole_probability}, {len(part.excluded)} "
        f"excluded maps, plan_length_max {_longest(part)}); ask for at most {got}, or use a larger level"
    )


def _problem(identity: str, name: str, split: Split, maze: Maze, plan: str, cell_px: int) -> Problem:
    image = picture_bytes(render(maze, cell_px))
    if name == vsp_planning.NAME:
        return vsp_planning.make_problem(identity, split, maze, image, answer=plan)
    answer = vsp_reasoning.answer_of(maze, plan)
    return vsp_reasoning.make_problem(identity, split, maze, image, plan, answer)
