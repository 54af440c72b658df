"""What training examples share with test problems: the same maze, a picture that looks alike, the same question.

Mazes are compared by their canonical form: pictures of two mazes look alike to a perceptual hash that are not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mirage_core.benchmarks.near_duplicates import near_pairs, perceptual_hash_of, text_key
from mirage_core.types import Problem
from mirage_core.worlds.maze import canonical, maze_from_rows


@dataclass(frozen=True, slots=True)
class Trace:
    """What a problem is recognised by: its maze, or its pictures' hashes and its words."""

    problem_id: str
    benchmark: str
    maze: str | None
    pictures: tuple[int, ...]
    words: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """An example and a test problem that share something."""

    example_id: str
    test_id: str
    how: str


def trace_of(problem: Problem) -> Trace:
    """The trace of a problem; pictures are hashed only where there is no maze to compare."""
    maze = canonical(maze_from_rows(problem.facts["map"])) if "map" in problem.facts else None
    pictures = () if maze else tuple(perceptual_hash_of(image) for image in problem.images)
    return Trace(problem.id, problem.benchmark, maze, pictures, text_key(problem.question))


def shared_with_test(trained: Sequence[Trace], tested: Sequence[Trace]) -> list[Duplicate]:
    """Every pair of an example and a test problem of one benchmark that share a maze, or a picture."""
    found: list[Duplicate] = []
    for benchmark in sorted({trace.benchmark for trace in tested}):
        left = [trace for trace in trained if trace.benchmark == benchmark]
        right = [trace for trace in tested if trace.benchmark == benchmark]
        found += [*_same_maze(left, right), *_alike(left, right)]
    return found


def _same_maze(trained: Sequence[Trace], tested: Sequence[Trace]) -> list[Duplicate]:
    by_maze = defaultdict(list)
    for trace in tested:
        if trace.maze:
            by_maze[trace.maze].append(trace.problem_id)
    return [
        Duplicate(trace.problem_id, test, "the same map")
        for trace in trained
        for test in by_maze.get(trace.maze or "", ())
    ]


def _alike(trained: Sequence[Trace], tested: Sequence[Trace]) -> list[Duplicate]:
    """Problems with a picture that looks alike; where the question is the same too, it is said."""
    left = [(trace, picture) for trace in trained for picture in trace.pictures]
    right = [(trace, picture) for trace in tested for picture in trace.pictures]
    pairs = near_pairs([picture for _, picture in left], [picture for _, picture in right])
    found = {(left[i][0], right[j][0]) for i, j in pairs}
    return [
        Duplicate(one.problem_id, other.problem_id, _how(one, other))
        for one, other in sorted(found, key=lambda pair: (pair[0].problem_id, pair[1].problem_id))
    ]


def _how(one: Trace, other: Trace) -> str:
    return "pictures alike" + (", the same question" if one.words == other.words else "")
