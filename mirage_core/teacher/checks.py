"""What every chain must satisfy before a student learns it, whoever wrote it.

The picture's one place is between the two texts, so neither may hold a token that would open another.
"""

from __future__ import annotations

import re

from mirage_core import benchmarks
from mirage_core.benchmarks.answers import boxed
from mirage_core.errors import TeacherError
from mirage_core.types import Problem, ReasoningChain

_SPECIAL = re.compile(r"<\|[^<>|]*\|>|<(?:image|output_image|video|latents:\d+)>")
_TAG = re.compile(r"</?think>")


def check_chain(chain: ReasoningChain, problem: Problem) -> None:
    """Raise TeacherError when a chain is for another problem, is not well formed, or boxes a wrong answer."""
    faults = chain_faults(chain, problem)
    if faults:
        raise TeacherError(
            f"the chain of teacher {chain.teacher!r} for problem {problem.id} ({chain.variant}) cannot be taught: "
            f"{'; '.join(faults)}. Write it anew or leave the problem out"
        )


def chain_faults(chain: ReasoningChain, problem: Problem) -> list[str]:
    """Every fault of a chain, empty when it may be taught."""
    faults = [] if chain.problem_id == problem.id else [f"it belongs to problem {chain.problem_id}"]
    if not chain.teacher:
        faults.append("it does not name its teacher")
    for side, text in (("before", chain.text_before), ("after", chain.text_after)):
        faults += [f"the text {side} the image holds the special token {token}" for token in _SPECIAL.findall(text)]
    return faults + _think_faults(chain) + _answer_faults(chain, problem)


def _think_faults(chain: ReasoningChain) -> list[str]:
    """Faults of the think tags: none in a direct chain; in a cot one closed, not nested, and one before the image."""
    before, after = _TAG.findall(chain.text_before), _TAG.findall(chain.text_after)
    if chain.variant == "direct":
        faults = ["a direct chain has text before the image"] if chain.text_before else []
        return faults + (["a direct chain thinks aloud"] if before or after else [])
    faults = [
        f"the think tags {side} the image are not pairs: {' '.join(tags)}"
        for side, tags in (("before", before), ("after", after))
        if tags != ["<think>", "</think>"] * (len(tags) // 2)
    ]
    if not re.fullmatch(r"\s*<think>.*\S.*</think>\s*", chain.text_before, flags=re.DOTALL):
        faults.append("the text before the image is not one thought in <think> </think>")
    return faults


def _answer_faults(chain: ReasoningChain, problem: Problem) -> list[str]:
    r"""Faults of the answer: one \boxed{}, after the image and all reasoning, right under the benchmark's own rule."""
    if "\\boxed" in chain.text_before:
        return ["the answer stands before the image"]
    reasoning, closed, answer = chain.text_after.rpartition("</think>")
    if closed and "\\boxed" in reasoning:
        return ["the answer stands inside the reasoning"]
    if answer.count("\\boxed") != 1 or boxed(answer) is None:
        return [f"expected one complete \\boxed{{}} after the image, got {answer[-80:]!r}"]
    benchmark = benchmarks.get(problem.benchmark)
    score = benchmark.score(problem, chain.text_after, benchmark.rules[0])
    return [] if score.correct else [f"its answer {boxed(answer)!r} is wrong (rule {score.rule})"]
