"""Questions of the original VSP repository (task1 to task4): a map, a question in words, an answer in words.

``maze/task4/maps/level3/{img,question,answer}/0.{png,txt,txt}``. Right is the box's text, or without a box the last
line, where it equals the published answer but for case, spaces and a full stop.
"""

from __future__ import annotations

from mirage_core.benchmarks.answers import boxed
from mirage_core.benchmarks.vsp_prompts import PromptForm, check_form, with_ending
from mirage_core.errors import SettingsError
from mirage_core.types import Problem, Score, Split, Variant

NAME = "vsp-questions"
TASKS = ("task1", "task2", "task3", "task4")
GROUPS = tuple(f"{task}-level-{level}" for task in TASKS for level in range(3, 9))
RULES = ("exact-text",)


def load(file: object, split: Split = "test") -> list[Problem]:
    """The questions of all tasks in a checkout of the repository; DataError names what is not as published."""
    from mirage_core.benchmarks.vsp_folder import folder_problems
    from mirage_core.config import VSPFolderData

    data = VSPFolderData(source=str(file), tasks=TASKS)
    return [problem for problem in folder_problems(data) if problem.split == split]


def make_problem(identity: str, task: str, level: int, question: str, picture: bytes, answer: str) -> Problem:
    """A question about a map; the picture stands before its words."""
    return Problem(
        id=identity,
        benchmark=NAME,
        split="test",
        group=f"{task}-level-{level}",
        question=with_ending(f"<image>\n{question.strip()}", "direct"),
        images=(picture,),
        answer=answer.strip(),
        facts={},
    )


def prompt(problem: Problem, form: PromptForm, variant: Variant) -> str:
    """What a model is asked: the question's own words and the variant's ending."""
    check_form(form)
    return with_ending(problem.question, variant)


def score(problem: Problem, output: str, rule: str = RULES[0]) -> Score:
    """Compare the answer's text with the published one; planning rules are accepted, so that one setting serves all."""
    if rule not in (*RULES, "mirage", "vsp"):
        raise SettingsError(f"unknown rule {rule!r} for {NAME}; expected {RULES[0]}")
    lines = output.strip().splitlines()
    parsed = boxed(output) or (lines[-1].strip() if lines else None)
    correct = parsed is not None and _plain(parsed) == _plain(problem.answer)
    return Score(problem_id=problem.id, correct=correct, parsed=parsed, rule=RULES[0])


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(". ")
