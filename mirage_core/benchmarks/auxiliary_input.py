"""A problem whose auxiliary picture is given as one more input: the upper bound of what imagining it can bring.

Paper, section 4: the picture itself, fed instead of imagined. The question then says which picture is which.
"""

from __future__ import annotations

from dataclasses import replace

from mirage_core.types import Problem

IMAGE_MARK = "<image>"
_FACT = "auxiliary_input"


def with_auxiliary_input(problem: Problem, picture: bytes) -> Problem:
    """The problem with its auxiliary picture (encoded bytes) as its last image; id, answer and scoring stay."""
    return replace(problem, images=(*problem.images, picture), facts={**problem.facts, _FACT: True})


def has_auxiliary_input(problem: Problem) -> bool:
    """Whether the last image of a problem is its auxiliary picture."""
    return bool(problem.facts.get(_FACT, False))


def labelled(question: str) -> str:
    """A question with one ``<image>`` a picture, each numbered, and one more behind the last: the auxiliary picture.

    The short form keeps short: ``Picture 1: <image>``, ``Picture 2, an auxiliary picture: <image>``, ``Plan:``.
    """
    *before, after = question.split(IMAGE_MARK)
    shown = "".join(f"{text}Picture {number}: {IMAGE_MARK}" for number, text in enumerate(before, start=1))
    added = f"Picture {len(before) + 1}, an auxiliary picture: {IMAGE_MARK}"
    return f"{shown}\n{added}{after}" if before else f"{added}\n{after}"
