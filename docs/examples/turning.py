"""Turning: a pattern of tiles is turned; how many tiles are then in its top row? A whole task of one's own."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import Image, ImageDraw

from mirage_core.benchmarks.custom.task import Problem, Score, Split, boxed, picture_bytes, split_of_form

NAME = "turning"
TURNS = {"left": 1, "half": 2, "right": 3}  # quarter turns against the clock
GROUPS = tuple(TURNS)
CELL_PX = 64  # a visual token at the recipe's image_scale
Pattern = list[list[int]]  # 1 where a tile lies, row by row


def problems(split: Split, count: int, seed: int, options: Mapping[str, Any]) -> Iterator[Problem]:
    """Patterns by chance; each belongs to one split, whatever the seed."""
    rng, side, seen = random.Random(f"{seed}/{split}"), options.get("side", 4), set[str]()
    while len(seen) < count:
        pattern = [[rng.randrange(2) for _ in range(side)] for _ in range(side)]
        if split_of_form(f"{NAME}/{pattern}") != split or str(pattern) in seen:
            continue
        turn = GROUPS[len(seen) % len(GROUPS)]
        seen.add(str(pattern))
        yield Problem(
            id=f"{NAME}-{split}-{len(seen)}",
            benchmark=NAME,
            split=split,
            group=turn,
            question=f"<image>\nTurned {turn}: tiles in the top row?",
            images=(drawn(pattern),),
            answer=str(sum(turned(pattern, turn)[0])),
            facts={"pattern": pattern, "turn": turn},
        )


def auxiliary_image(problem: Problem, seed: int) -> list[bytes]:  # noqa: ARG001 (nothing is left to chance)
    """A film, the pattern after each quarter turn: what one would see with the mind's eye."""
    return [drawn(pattern) for pattern in quarter_turns(problem.facts["pattern"], TURNS[problem.facts["turn"]])]


def score(problem: Problem, output: str) -> Score:
    """The box holds the number."""
    parsed = boxed(output)
    return Score(problem_id=problem.id, correct=parsed == problem.answer, parsed=parsed, rule="the number in the box")


def chain(problem: Problem) -> tuple[str, str]:
    """What is thought before and after the picture."""
    row = " ".join("tile" if tile else "empty" for tile in turned(problem.facts["pattern"], problem.facts["turn"])[0])
    return f"I turn the pattern {problem.facts['turn']}.", f"Now the top row is: {row}. I count {problem.answer}."


def caption(problem: Problem) -> str:
    """The picture in words."""
    rows = ["".join(".#"[tile] for tile in row) for row in turned(problem.facts["pattern"], problem.facts["turn"])]
    return f"After the turn the rows are {', '.join(rows)}."


def turned(pattern: Pattern, turn: str) -> Pattern:
    """The pattern after all quarter turns of a turn."""
    return quarter_turns(pattern, TURNS[turn])[-1]


def quarter_turns(pattern: Pattern, number: int) -> list[Pattern]:
    """The pattern after each of some quarter turns."""
    patterns = [pattern]
    for _ in range(number):
        patterns.append([list(row) for row in zip(*patterns[-1], strict=True)][::-1])
    return patterns[1:]


def drawn(pattern: Pattern) -> bytes:
    """The pattern as PNG, blue tiles on white."""
    picture = Image.new("RGB", (CELL_PX * len(pattern), CELL_PX * len(pattern)), "white")
    for y, row in enumerate(pattern):
        for x, tile in enumerate(row):
            box = (x * CELL_PX + 2, y * CELL_PX + 2, x * CELL_PX + CELL_PX - 3, y * CELL_PX + CELL_PX - 3)
            ImageDraw.Draw(picture).rectangle(box, fill="royalblue" if tile else "white", outline="silver")
    return picture_bytes(picture)
