"""A problem with its auxiliary image as an additional input: the upper bound of what imagining it can gain.

Paper, section 4: the image itself is an input instead of being imagined. The prompt then labels each image.
"""

from __future__ import annotations

from dataclasses import replace

from mirage_core.types import Problem

IMAGE_MARK = "<image>"
_FACT = "auxiliary_input"


def with_auxiliary_input(problem: Problem, image: bytes) -> Problem:
    """The problem with its auxiliary image (encoded bytes) as its last image; id, answer and scoring stay."""
    return replace(problem, images=(*problem.images, image), facts={**problem.facts, _FACT: True})


def has_auxiliary_input(problem: Problem) -> bool:
    """Whether the last image of a problem is its auxiliary image."""
    return bool(problem.facts.get(_FACT, False))


def labelled(question: str) -> str:
    """A question with its images numbered, and one more ``<image>`` after the last: the auxiliary image.

    The short form stays short: ``Picture 1: <image>``, ``Picture 2, an auxiliary picture: <image>``, ``Plan:``.
    """
    *before, after = question.split(IMAGE_MARK)
    numbered = "".join(f"{text}Picture {number}: {IMAGE_MARK}" for number, text in enumerate(before, start=1))
    added = f"Picture {len(before) + 1}, an auxiliary picture: {IMAGE_MARK}"
    return f"{numbered}\n{added}{after}" if before else f"{added}\n{after}"
