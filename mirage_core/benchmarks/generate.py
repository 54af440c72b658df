"""Generated problems: solvable mazes, level by level, whose splits share no map.

Every (benchmark, split, level) has its own random generator, so a change of one does not affect the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.benchmarks.io.jsonl import read_rows
from mirage_core.benchmarks.splits import split_of_form
from mirage_core.config import BenchmarkData, ProblemSettings
from mirage_core.errors import DataError
from mirage_core.types import Problem, Progress, ProgressEvent, Split
from mirage_core.worlds.maze import (
    Maze,
    Outcome,
    canonical,
    picture_bytes,
    random_maze,
    random_plan,
    render,
    shortest_path,
)

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
OUTCOMES: tuple[Outcome, ...] = ("success", "hole", "safe")
_DRAWS = 50_000
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
    begin, levels = 0, {}
    for level, count in counts.items():
        levels[level] = _draw_level(name, split, level, count, begin, settings, seed, excluded)
        begin += count
    for turn in range(max(counts.values(), default=0)):
        for level, mazes in levels.items():
            if turn < len(mazes):
                yield _problem(f"{name}-{split}-{level}-{turn:05d}", name, split, *mazes[turn], settings.cell_px)


def _draw_level(
    name: str,
    split: Split,
    level: int,
    count: int,
    begin: int,
    settings: ProblemSettings,
    seed: int,
    excluded: frozenset[str],
) -> list[tuple[Maze, str]]:
    """Draw the mazes of one level with their plans; ``begin`` continues the cycle of outcomes from the last level."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{name}/{split}".encode()), level])
    taken = set(excluded)
    mazes = []
    for index in range(count):
        drawn = _draw(rng, name, split, level, begin + index, settings, taken)
        if drawn is None:
            raise DataError(_too_few(name, split, level, index, count, settings, len(excluded)))
        mazes.append(drawn)
        if split != "train":
            taken.add(canonical(drawn[0]))
    return mazes


def _draw(
    rng: np.random.Generator,
    name: str,
    split: Split,
    level: int,
    index: int,
    settings: ProblemSettings,
    taken: set[str],
) -> tuple[Maze, str] | None:
    """Draw a maze of the split that is not taken, with its plan; None if many draws gave none."""
    for _ in range(_DRAWS):
        maze = random_maze(rng, level, settings.hole_probability)
        form = canonical(maze)
        if form in taken or split_of_form(form) != split:
            continue
        if name == vsp_planning.NAME:
            plan = shortest_path(maze)
        else:
            plan = random_plan(rng, maze, OUTCOMES[index % len(OUTCOMES)], settings.plan_length_max)
        if plan is not None:
            return maze, plan
    return None


def _too_few(
    name: str, split: Split, level: int, got: int, expected: int, settings: ProblemSettings, excluded: int
) -> str:
    distinct = "different " if split != "train" else ""
    return (
        f"{name}: {expected} {distinct}{split} maps of level {level} are wanted, but after {got} no other was found in "
        f"{_DRAWS} draws (hole probability {settings.hole_probability}, {excluded} excluded maps, "
        f"plan_length_max {settings.plan_length_max}); ask for at most {got}, or use a larger level"
    )


def _problem(identity: str, name: str, split: Split, maze: Maze, plan: str, cell_px: int) -> Problem:
    image = picture_bytes(render(maze, cell_px))
    if name == vsp_planning.NAME:
        return vsp_planning.make_problem(identity, split, maze, image, answer=plan)
    answer = vsp_reasoning.answer_of(maze, plan)
    return vsp_reasoning.make_problem(identity, split, maze, image, plan, answer)
