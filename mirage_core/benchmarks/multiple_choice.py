"""Questions with lettered options: their wording, their prompt, and their scoring rules.

The options are the fact ``options``: a list of texts, the first is A. ``option-letter`` is the default rule of every
benchmark with options (reading/letters.py). ``option-letter-1`` and ``published-letter`` are the readings of earlier
versions; a benchmark adds its authors' own rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mirage_core.benchmarks.benchmark import OFFICIAL, ScoreFunction, check_rule
from mirage_core.benchmarks.reading import earlier
from mirage_core.benchmarks.reading.letters import read_letter
from mirage_core.benchmarks.vsp_prompts import PromptForm, check_form, with_ending
from mirage_core.errors import DataError
from mirage_core.types import Problem, Score, Split, Variant

OPTION_LETTER = "option-letter"
EARLIER_LETTER = "option-letter-1"
PUBLISHED_LETTER = "published-letter"
LETTER_RULES = (OPTION_LETTER, EARLIER_LETTER, PUBLISHED_LETTER)
LetterReader = Callable[[str, Mapping[str, str]], "str | None"]
"""Reads the letter of an output, given the options by their letters."""
_READERS: Mapping[str, LetterReader] = {
    OPTION_LETTER: read_letter,
    EARLIER_LETTER: earlier.option_letter,
    PUBLISHED_LETTER: earlier.published_letter,
}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_OPTIONS = len(LETTERS)


def lettered(options: Sequence[str]) -> dict[str, str]:
    """Options by their letters; DataError for fewer than two, too many, or two that read the same."""
    texts = [option.strip() for option in options]
    if not 2 <= len(texts) <= MAX_OPTIONS:
        raise DataError(f"got {len(texts)} options, expected 2 to {MAX_OPTIONS}")
    if len({text.casefold() for text in texts}) < len(texts) or not all(texts):
        raise DataError(
            f"the options {texts!r:.300} are not all different and non-empty: the right one would be ambiguous"
        )
    return dict(zip(LETTERS, texts, strict=False))


def options_of(problem: Problem) -> Mapping[str, str]:
    """The options of a problem by their letters."""
    return lettered(problem.facts["options"])


def with_options(question: str, options: Sequence[str]) -> str:
    """A question followed by its options, a line each: "(A) on the left"."""
    lines = [f"({letter}) {text}" for letter, text in lettered(options).items()]
    return "\n".join([question.rstrip(), "Select from the following choices.", *lines])


def right_letter(answer: str, options: Sequence[str]) -> str:
    """The letter of the right option, named by its letter ("(B)") or its text; DataError if it names none."""
    texts = lettered(options)
    exact = [letter for letter, text in texts.items() if text.casefold() == answer.strip().casefold()]
    letter = exact[0] if exact else earlier.letter_of(answer.strip(), texts)
    if letter is None:
        raise DataError(f"the answer {answer!r:.200} is none of the options {texts!r:.300}")
    return letter


def prompt(problem: Problem, form: PromptForm, variant: Variant) -> str:
    """The prompt: the problem's question and the variant's ending, or the short question and "Answer:"."""
    check_form(form)
    if form == "short":
        return str(problem.facts.get("short", problem.question)).rstrip() + "\nAnswer:"
    return with_ending(problem.question, variant)


def score(problem: Problem, output: str, rule: str = OPTION_LETTER) -> Score:
    """Compare the chosen letter with the answer; no readable letter is unparsed."""
    check_rule(rule, LETTER_RULES, problem.benchmark)
    applied = rule if rule in LETTER_RULES else OPTION_LETTER
    return letter_score(problem, _READERS[applied](output, published_options(problem)), applied)


def published_options(problem: Problem) -> dict[str, str]:
    """The options by their letters as they are published: two may read the same."""
    return dict(zip(LETTERS, problem.facts["options"], strict=False))


def scorer(official: str, reader: LetterReader) -> ScoreFunction:
    """The score function of a benchmark whose authors read letters by a rule of their own, called ``official``."""

    def score_by_rule(problem: Problem, output: str, rule: str = OPTION_LETTER) -> Score:
        if rule in (official, OFFICIAL):
            return letter_score(problem, reader(output, published_options(problem)), official)
        check_rule(rule, (*LETTER_RULES, official), problem.benchmark)
        return score(problem, output, rule)

    return score_by_rule


def letter_score(problem: Problem, letter: str | None, rule: str) -> Score:
    """The score of a letter that was read under a rule."""
    return Score(problem_id=problem.id, correct=letter == problem.answer, parsed=letter, rule=rule)


def published_problem(
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
    """The problem of a published row: ``body`` is the question with its options in the benchmark's own layout.

    The whole official prompt, with its ``ending``, is the fact ``official``. DataError, naming the row by ``where``,
    for too few options or an answer that is none of their letters.
    """
    letters = LETTERS[: len(options)]
    letter = answer.strip().strip("()").upper()
    if not 2 <= len(options) <= MAX_OPTIONS or len(letter) != 1 or letter not in letters:
        raise DataError(
            f"{where}: the answer {answer!r:.200} is none of the letters {', '.join(letters)} of {len(options)} options"
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
