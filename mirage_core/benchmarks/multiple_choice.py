"""Questions with lettered options: how they are worded, asked and judged, whatever they are about.

Shared by jigsaw, SAT, CoMT and a user's own questions. The options stand in the fact ``options``: a list of texts,
the first is A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mirage_core.benchmarks.answer_parsing import letter_of, option_letter
from mirage_core.benchmarks.vsp_prompts import PromptForm, check_form, with_ending
from mirage_core.errors import DataError, SettingsError
from mirage_core.types import Problem, Score, Variant

RULE = "option-letter"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MOST_OPTIONS = len(LETTERS)


def lettered(options: Sequence[str]) -> dict[str, str]:
    """Options by their letters; DataError when there are fewer than two, too many, or two that read the same."""
    texts = [option.strip() for option in options]
    if not 2 <= len(texts) <= MOST_OPTIONS:
        raise DataError(f"got {len(texts)} options, expected 2 to {MOST_OPTIONS}")
    if len({text.casefold() for text in texts}) < len(texts) or not all(texts):
        raise DataError(f"the options {texts} are not all different and non-empty: nobody could tell which is right")
    return dict(zip(LETTERS, texts, strict=False))


def options_of(problem: Problem) -> Mapping[str, str]:
    """The options of a problem by their letters."""
    return lettered(problem.facts["options"])


def with_options(question: str, options: Sequence[str]) -> str:
    """A question followed by its options, a line each: "(A) on the left"."""
    lines = [f"({letter}) {text}" for letter, text in lettered(options).items()]
    return "\n".join([question.rstrip(), "Select from the following choices.", *lines])


def right_letter(answer: str, options: Sequence[str]) -> str:
    """The letter of the right option, named by its letter ("(B)") or its text; DataError when it names none."""
    named = lettered(options)
    exact = [letter for letter, text in named.items() if text.casefold() == answer.strip().casefold()]
    letter = exact[0] if exact else letter_of(answer.strip(), named)
    if letter is None:
        raise DataError(f"the answer {answer!r} is none of the options {named}")
    return letter


def prompt(problem: Problem, form: PromptForm, variant: Variant) -> str:
    """What a model is asked: the problem's words and the variant's ending, or the words alone and "Answer:"."""
    check_form(form)
    if form == "short":
        return str(problem.facts.get("short", problem.question)).rstrip() + "\nAnswer:"
    return with_ending(problem.question, variant)


def score(problem: Problem, output: str, rule: str = RULE) -> Score:
    """Compare the chosen letter with the answer; nothing readable is unparsed, hence wrong.

    There is one rule and the score names it; the planning rules are accepted, so that one setting serves all.
    """
    if rule not in (RULE, "mirage", "vsp"):
        raise SettingsError(f"unknown rule {rule!r} for {problem.benchmark}; expected {RULE}")
    letter = option_letter(output, options_of(problem))
    return Score(problem_id=problem.id, correct=letter == problem.answer, parsed=letter, rule=RULE)
