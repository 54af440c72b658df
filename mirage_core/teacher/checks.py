"""Checks that every chain must pass before training, whatever its source.

The image is between the two texts of a chain, so neither text may contain a token that would start another image.
Messages of faults are part of requests to teachers, whose digests are keys of cached answers: keep their wording.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mirage_core import benchmarks
from mirage_core.benchmarks.answer_parsing import boxed
from mirage_core.config import TeacherSettings
from mirage_core.errors import TeacherError
from mirage_core.types import Problem, ReasoningChain

_SPECIAL = re.compile(r"<\|[^<>|]*\|>|<(?:image|output_image|auxiliary_image|video|latents:\d+)>")
_TAG = re.compile(r"</?think>")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a chain: ``reason`` is a word to count by, ``message`` a sentence for users and teachers."""

    reason: str
    message: str


def check_chain(chain: ReasoningChain, problem: Problem) -> None:
    """Raise TeacherError when a chain is for another problem, is not well formed, or boxes a wrong answer."""
    faults = chain_faults(chain, problem)
    if faults:
        raise TeacherError(
            f"the chain of teacher {chain.teacher!r} for problem {problem.id} ({chain.variant}) cannot be taught: "
            f"{'; '.join(faults)}. Rewrite it or leave the problem out"
        )


def chain_faults(chain: ReasoningChain, problem: Problem) -> list[str]:
    """Return the messages of all faults of a chain; empty for a valid chain."""
    return [fault.message for fault in faults_of(chain, problem)]


def faults_of(chain: ReasoningChain, problem: Problem) -> list[Fault]:
    """Return all faults of a chain that are checked for every teacher."""
    faults = (
        [] if chain.problem_id == problem.id else [Fault("other-problem", f"it belongs to problem {chain.problem_id}")]
    )
    if not chain.teacher:
        faults.append(Fault("no-teacher", "it does not name its teacher"))
    for side, text in _sides(chain):
        faults += [
            Fault("special-token", f"the text {side} the image holds the special token {token}")
            for token in _SPECIAL.findall(text)
        ]
    return [*faults, *_think_faults(chain), *_answer_faults(chain, problem)]


def leakage_faults(chain: ReasoningChain, problem: Problem, settings: TeacherSettings) -> list[Fault]:
    """Return further faults of a chain whose writer got the answer: it leaks the answer, or reveals that it got it."""
    return [
        *_early_faults(chain, problem),
        *_length_faults(chain, settings),
        *_betrayal_faults(chain, settings.betrayals),
    ]


def _sides(chain: ReasoningChain) -> Iterator[tuple[str, str]]:
    yield "before", chain.text_before
    yield "after", chain.text_after


def _think_faults(chain: ReasoningChain) -> Iterator[Fault]:
    """Yield faults of the think tags: a direct chain has none; a cot chain has pairs, one of them before the image.

    A chain with marks is a data set's own (Monet), which needs none.
    """
    before, after = _TAG.findall(chain.text_before), _TAG.findall(chain.text_after)
    if chain.variant == "direct":
        if chain.text_before:
            yield Fault("think-tags", "a direct chain has text before the image")
        if before or after:
            yield Fault("think-tags", "a direct chain thinks aloud")
        return
    for side, tags in (("before", before), ("after", after)):
        if tags != ["<think>", "</think>"] * (len(tags) // 2):
            yield Fault("think-tags", f"the think tags {side} the image are not pairs: {' '.join(tags[:12])}")
    if not chain.marked and not re.fullmatch(r"\s*<think>.*\S.*</think>\s*", chain.text_before, flags=re.DOTALL):
        yield Fault("think-tags", "the text before the image is not one thought in <think> </think>")


def _answer_faults(chain: ReasoningChain, problem: Problem) -> Iterator[Fault]:
    r"""Yield faults of the answer: one \boxed{}, after the image and all reasoning, right by the benchmark's rule."""
    if "\\boxed" in chain.text_before:
        yield Fault("answer-early", "the answer stands before the image")
        return
    reasoning, closed, answer = chain.text_after.rpartition("</think>")
    if closed and "\\boxed" in reasoning:
        yield Fault("answer-early", "the answer stands inside the reasoning")
        return
    if answer.count("\\boxed") != 1 or boxed(answer) is None:
        yield Fault("box", f"expected one complete \\boxed{{}} after the image, got {answer[-80:]!r}")
        return
    benchmark = benchmarks.get(problem.benchmark)
    score = benchmark.score(problem, chain.text_after, benchmark.rules[0])
    if not score.correct:
        yield Fault("wrong-answer", f"its answer {boxed(answer)!r} is wrong (rule {score.rule})")


def _early_faults(chain: ReasoningChain, problem: Problem) -> Iterator[Fault]:
    """Yield a fault where the text before the image states the answer; the bare answer from 4 characters on."""
    answer = re.escape(problem.answer.strip())
    statement = rf"\banswer\s*(?:is|:|=|would be|must be)\s*(?:option\s*)?[(\"'*]*{answer}(?!\w)"
    verbatim = len(problem.answer.strip()) >= 4 and re.search(rf"(?<!\w){answer}(?!\w)", chain.text_before)
    if answer and (verbatim or re.search(statement, chain.text_before, flags=re.IGNORECASE)):
        yield Fault("answer-early", "the first thought tells the answer already")


def _length_faults(chain: ReasoningChain, settings: TeacherSettings) -> Iterator[Fault]:
    low, high = settings.min_thought_chars, settings.max_thought_chars
    for side, text in _sides(chain):
        length = len(_TAG.sub("", text.rpartition("\\boxed")[0] if side == "after" else text).strip())
        if not low <= length <= high:
            word = "short" if length < low else "long"
            yield Fault(
                "length", f"the thought {side} the image is too {word}: {length} characters, allowed {low} to {high}"
            )
        if _CONTROL.search(text):
            yield Fault("special-token", f"the text {side} the image holds control characters")


def _betrayal_faults(chain: ReasoningChain, phrases: Sequence[str]) -> Iterator[Fault]:
    text = " ".join(f"{chain.text_before} {chain.text_after}".casefold().split())
    matches = [phrase for phrase in phrases if " ".join(phrase.casefold().split()) in text]
    if matches:
        yield Fault("betrayal", f"it betrays that the answer or the picture was given: {', '.join(map(repr, matches))}")
