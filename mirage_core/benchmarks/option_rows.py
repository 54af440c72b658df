"""Published questions with lettered options: how a row becomes a problem, and how its answers are judged.

Shared by V*, HR-Bench, MME-RealWorld and BLINK. Their own prompts end with the wish for a bare letter, which no box
and no "(X)" need hold, so this rule reads that too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mirage_core.benchmarks import multiple_choice
from mirage_core.benchmarks.answer_parsing import boxed
from mirage_core.benchmarks.multiple_choice import LETTERS
from mirage_core.errors import DataError, SettingsError
from mirage_core.types import Problem, Score, Split

RULE = "published-letter"
_SAID = re.compile(r"\b(?i:answer|option|choice)\b(?:\s+is)?\s*:?\s*\**\s*\(?([A-Z])\b(?!')")
_BARE = re.compile(r"\W*([A-Za-z])\s*(?:[.:,)*].*)?", flags=re.DOTALL)
prompt = multiple_choice.prompt
__all__ = ["RULE", "answer_text", "choice_problem", "prompt", "read_letter", "score", "score_letter"]


def choice_problem(
    identity: str,
    benchmark: str,
    group: str,
    *,
    split: Split,
    body: str,
    ending: str,
    images: tuple[bytes, ...],
    options: Sequence[str],
    answer: str,
    where: str,
    facts: Mapping[str, Any],
) -> Problem:
    """A problem of a published row: ``body`` is the question with its options in the benchmark's own layout.

    The whole official prompt, with its ``ending``, is the fact ``official``. DataError, naming ``where`` the row
    stands, when there are too few options or the answer is none of their letters.
    """
    letters = LETTERS[: len(options)]
    letter = answer.strip().strip("()").upper()
    if not 2 <= len(options) <= len(LETTERS) or len(letter) != 1 or letter not in letters:
        raise DataError(
            f"{where}: the answer {answer!r} is none of the letters {', '.join(letters)} of {len(options)} options"
        )
    question = "<image>\n" * len(images) + body.strip()
    return Problem(
        id=identity,
        benchmark=benchmark,
        split=split,
        group=group,
        question=question,
        images=images,
        answer=letter,
        facts={"options": list(options), "official": question + ending, **facts},
    )


def score(problem: Problem, output: str, rule: str = RULE) -> Score:
    """The letter in the box, else the last "(X)", else that of "the answer is X", else a letter alone, else the only
    option whose whole text stands in the answer."""
    if rule not in (RULE, multiple_choice.RULE, "mirage", "vsp"):
        raise SettingsError(f"unknown rule {rule!r} for {problem.benchmark}; expected {RULE}")
    return score_letter(problem, read_letter(output, _options(problem)), RULE)


def score_letter(problem: Problem, letter: str | None, rule: str) -> Score:
    """The verdict on a letter that was read by a rule."""
    return Score(problem_id=problem.id, correct=letter == problem.answer, parsed=letter, rule=rule)


def read_letter(output: str, options: Mapping[str, str]) -> str | None:
    """The chosen letter, None where the text names none or several."""
    box = boxed(output)
    if box is not None:
        letter = _letter_in(re.sub(r"\\text\w*\s*\{([^{}]*)\}", r"\1", box), options)
        if letter is not None:
            return letter
    return _letter_in(answer_text(output), options)


def _letter_in(text: str, options: Mapping[str, str]) -> str | None:
    marked = [found.upper() for found in re.findall(r"\(([A-Za-z])\)", text) if found.upper() in options]
    said = [found for found in _SAID.findall(text) if found in options]
    bare = _BARE.fullmatch(text)
    if marked or said:
        return (marked or said)[-1]
    if bare and bare.group(1).upper() in options:
        return bare.group(1).upper()
    named = [letter for letter, option in options.items() if _stands_in(option, text)]
    return named[0] if len(named) == 1 else None


def answer_text(output: str) -> str:
    """The output after its last thought."""
    return output.rpartition("</think>")[2].strip()


def _stands_in(option: str, text: str) -> bool:
    wanted = option.strip().rstrip(".").casefold()
    return bool(wanted) and re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text.casefold()) is not None


def _options(problem: Problem) -> dict[str, str]:
    return dict(zip(LETTERS, problem.facts["options"], strict=False))
