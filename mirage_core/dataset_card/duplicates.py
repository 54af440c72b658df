"""Near duplicates of test problems among training examples: the same maze or puzzle, similar images or questions.

Mazes and puzzles are compared by their canonical form, because a perceptual hash cannot tell images of different ones
apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from mirage_core.benchmarks.near_duplicates import near_pairs, perceptual_hash_of, text_key
from mirage_core.benchmarks.puzzles import FORM
from mirage_core.types import Problem
from mirage_core.worlds.maze import canonical, maze_from_rows


@dataclass(frozen=True, slots=True)
class ProblemKey:
    """What identifies a problem: its maze or its puzzle's form, or its image hashes, and its normalized question."""

    problem_id: str
    benchmark: str
    maze: str | None
    image_hashes: tuple[int, ...]
    question: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A training example and a test problem that share something, and what."""

    example_id: str
    test_id: str
    how: str


def problem_key(problem: Problem) -> ProblemKey:
    """Return the key of a problem; images are hashed only without a maze or a form."""
    maze = canonical(maze_from_rows(problem.facts["map"])) if "map" in problem.facts else problem.facts.get(FORM)
    hashes = () if maze else tuple(perceptual_hash_of(image) for image in problem.images)
    return ProblemKey(problem.id, problem.benchmark, maze, hashes, text_key(problem.question))


def shared_with_test(trained: Sequence[ProblemKey], tested: Sequence[ProblemKey]) -> list[Duplicate]:
    """Return all pairs of an example and a test problem of one benchmark that share a maze or an image."""
    duplicates: list[Duplicate] = []
    for benchmark in sorted({key.benchmark for key in tested}):
        left = [key for key in trained if key.benchmark == benchmark]
        right = [key for key in tested if key.benchmark == benchmark]
        duplicates += [*_same_maze(left, right), *_similar_images(left, right)]
    return duplicates


def _same_maze(trained: Sequence[ProblemKey], tested: Sequence[ProblemKey]) -> list[Duplicate]:
    by_maze = defaultdict(list)
    for key in tested:
        if key.maze:
            by_maze[key.maze].append(key.problem_id)
    return [
        Duplicate(key.problem_id, test, "the same map") for key in trained for test in by_maze.get(key.maze or "", ())
    ]


def _similar_images(trained: Sequence[ProblemKey], tested: Sequence[ProblemKey]) -> list[Duplicate]:
    """Return the problems with a similar image, noting where the question is the same too."""
    left = [(key, image) for key in trained for image in key.image_hashes]
    right = [(key, image) for key in tested for image in key.image_hashes]
    pairs = near_pairs([image for _, image in left], [image for _, image in right])
    similar = {(left[i][0], right[j][0]) for i, j in pairs}
    return [
        Duplicate(example.problem_id, test.problem_id, _how(example, test))
        for example, test in sorted(similar, key=lambda pair: (pair[0].problem_id, pair[1].problem_id))
    ]


def _how(example: ProblemKey, test: ProblemKey) -> str:
    return "pictures alike" + (", the same question" if example.question == test.question else "")
