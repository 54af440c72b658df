"""Generated puzzles with lettered options: how many of each level, and which split a puzzle is in.

Every (benchmark, split, level) has its own random generator, so a change of one does not affect the others.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mirage_core.benchmarks.benchmark import Benchmark
from mirage_core.benchmarks.generate import SPLITS, level_counts
from mirage_core.benchmarks.multiple_choice import LETTER_RULES, LETTERS, OPTION_LETTER, prompt, score
from mirage_core.benchmarks.splits import split_of_form
from mirage_core.config import PuzzleData
from mirage_core.errors import DataError, InputError
from mirage_core.types import Problem, Progress, ProgressEvent, Split

LEVELS = range(3, 9)
GROUPS = tuple(f"level-{level}" for level in LEVELS)
OPTIONS = 4
FORM = "form"
"""The fact that names what a puzzle is about in any orientation: two splits never share it."""
_DRAWS = 3000
_REPORT_EVERY = 100

Facts = Mapping[str, Any]
Draw = Callable[[np.random.Generator, int, int, Callable[[str], bool]], "Facts | None"]
"""Draws the facts of a puzzle: from a generator, a level, the number of the right option, and whether a form may be
used. None if this draw gave no such puzzle. A form has to be refused before the options are chosen, so that they tell
nothing about the right one."""


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A kind of puzzle: its name, how its facts are drawn, its question with options, and its image.

    ``show`` draws the image of a problem from its facts and the side of a cell in pixels.
    """

    name: str
    draw: Draw
    question: Callable[[Facts], str]
    show: Callable[[Facts, int], bytes]

    def problems(self, data: PuzzleData, seed: int, cell_px: int, progress: Progress) -> Iterator[Problem]:
        """Yield the problems of every split, alternating between levels, with right options A to D in turn.

        Forms are distinct inside validation and test; train may repeat one. DataError if a level has too few of them.
        """
        counts = {split: level_counts(data, split) for split in SPLITS}
        total, done = sum(sum(count.values()) for count in counts.values()), 0
        for split in SPLITS:
            begin, levels = 0, {}
            for level, count in counts[split].items():
                levels[level] = self._draw_level(split, level, range(begin, begin + count), seed)
                begin += count
            for turn in range(max(counts[split].values(), default=0)):
                for level in (level for level, drawn in levels.items() if turn < len(drawn)):
                    facts = levels[level][turn]
                    yield self.problem(f"{self.name}-{split}-{level}-{turn:05d}", split, level, facts, cell_px)
                    done += 1
                    if done % _REPORT_EVERY == 0 or done == total:
                        progress(
                            ProgressEvent(stage="problems", message=f"{self.name} {split}", step=done, total=total)
                        )

    def problem(self, identity: str, split: Split, level: int, facts: Facts, cell_px: int) -> Problem:
        """Return the problem of drawn facts."""
        return Problem(
            id=identity,
            benchmark=self.name,
            split=split,
            group=f"level-{level}",
            question=self.question(facts),
            images=(self.show(facts, cell_px),),
            answer=facts["answer"],
            facts={name: value for name, value in facts.items() if name != "answer"},
        )

    def benchmark(self) -> Benchmark:
        """Return the record of the benchmark."""
        return Benchmark(self.name, GROUPS, LETTER_RULES, self._load, score, prompt, official=OPTION_LETTER)

    def _draw_level(self, split: Split, level: int, numbers: Sequence[int], seed: int) -> list[Facts]:
        """Draw the facts of one level; the right option of a puzzle goes by its number."""
        rng = np.random.default_rng([seed, zlib.crc32(f"{self.name}/{split}".encode()), level])
        taken: set[str] = set()
        drawn: list[Facts] = []

        def allowed(form: str) -> bool:
            return form not in taken and split_of_form(f"{self.name}/{form}") == split

        for number in numbers:
            tries = (self.draw(rng, level, number % OPTIONS, allowed) for _ in range(_DRAWS))
            facts = next((facts for facts in tries if facts is not None), None)
            if facts is None:
                raise DataError(
                    f"{self.name}: {len(numbers)} {split} problems of level {level} are wanted, but after {len(drawn)} "
                    f"no other was found in {_DRAWS} draws; ask for at most {len(drawn)}, or use a larger level"
                )
            drawn.append(facts)
            if split != "train":
                taken.add(facts[FORM])
        return drawn

    def _load(self, file: Path, split: Split = "test") -> list[Problem]:  # noqa: ARG002 (a benchmark's load)
        raise InputError(f"{self.name} generates its own problems and reads no file {file}: leave out --data")


def answer_letter(number: int) -> str:
    """Return the letter of an option, counted from 0."""
    return LETTERS[number]
