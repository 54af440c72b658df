"""The corpus of answers written by hand, as problems with outputs and verdicts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirage_core.benchmarks import vsp_planning
from mirage_core.types import Problem
from mirage_core.worlds.maze import maze_from_rows

FOLDER = Path(__file__).parent
QUESTIONS: dict[str, dict[str, Any]] = json.loads((FOLDER / "questions.json").read_text(encoding="utf-8"))
MAZE = maze_from_rows([[1, 0, 0], [0, -1, 0], [0, 0, 2]])
LETTERS = "ABCDE"


@dataclass(frozen=True, slots=True)
class Case:
    """One output: ``verdict`` is a letter, moves, or one of a question's possible answers; None for no answer."""

    question: str
    verdict: str | None
    output: str

    @property
    def benchmark(self) -> str:
        return str(QUESTIONS[self.question]["benchmark"])

    @property
    def reader(self) -> str:
        """What the page's table calls the reader: the benchmark, of TableVQA-Bench with its part."""
        part = QUESTIONS[self.question].get("part")
        return self.benchmark if part is None else f"{self.benchmark} {part}"

    @property
    def answers(self) -> list[str]:
        """The answers that are tried as the right one: letters, or the possible answers in words."""
        question = QUESTIONS[self.question]
        return question.get("answers") or [*LETTERS[: len(question["options"])]]

    def problem(self, answer: str) -> Problem:
        """The question as a problem whose right answer is one of ``answers``."""
        question = QUESTIONS[self.question]
        if self.benchmark == "vsp-planning":
            return vsp_planning.make_problem("p", "test", MAZE, b"", "DDRR")
        group = "task1-level-3" if self.benchmark == "vsp-questions" else question.get("part", "g")
        right = {"A": "Y", "B": "N"}[answer] if self.benchmark == "vsp-questions" else answer
        facts = {"options": question["options"], "scene": question["question"]} if "options" in question else {}
        return Problem(
            id="p", benchmark=self.benchmark, split="test", group=group, question=question["question"], images=(),
            answer=right, facts=facts,
        )  # fmt: skip


def cases() -> list[Case]:
    """Every line of the corpus."""
    lines = (FOLDER / "corpus.txt").read_text(encoding="utf-8").splitlines()
    parts = [line.split(" | ", 2) for line in lines]
    return [Case(name, None if verdict == "-" else verdict, text.replace("⏎", "\n")) for name, verdict, text in parts]
