"""The messages sent to a teacher: the question with its images, and the request to correct a rejected answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mirage_core import benchmarks
from mirage_core.errors import DataError
from mirage_core.llm_client.messages import IMAGE, Message, image_part, text_part
from mirage_core.teacher.prompt_templates import Prompt
from mirage_core.types import AuxiliaryImage, Problem, Variant

AUXILIARY_IMAGE = "<auxiliary_image>"
LONGEST_QUOTE = 4000
_MARKS = re.compile(f"({IMAGE}|{AUXILIARY_IMAGE})")


def first_messages(
    prompt: Prompt, problem: Problem, auxiliary: AuxiliaryImage, variant: Variant
) -> tuple[Message, ...]:
    """Return the question with its images, the right answer, the auxiliary image and the task (Paper, section 3.1).

    Raises DataError when the question's marks and the problem's images do not agree.
    """
    question = benchmarks.get(problem.benchmark).prompt(problem, "benchmark", variant).strip()
    parts = _parts(prompt.question(question=question, answer=problem.answer), problem, auxiliary)
    return (*system_messages(prompt), {"role": "user", "content": parts})


def text_messages(prompt: Prompt, text: str, answer: str) -> tuple[Message, ...]:
    """Return messages without images: ``text`` in place of the question."""
    return (*system_messages(prompt), {"role": "user", "content": prompt.question(question=text, answer=answer)})


def next_messages(first: Sequence[Message], prompt: Prompt, answer: str, reasons: str) -> tuple[Message, ...]:
    """Return the first messages, the rejected answer, and the reasons for its rejection."""
    quote = answer[:LONGEST_QUOTE].strip() or "(no text)"
    return (
        *first,
        {"role": "assistant", "content": quote},
        {"role": "user", "content": prompt.complaint(reasons)},
    )


def system_messages(prompt: Prompt) -> tuple[Message, ...]:
    """Return the system message, if the prompt has one."""
    return ({"role": "system", "content": prompt.system},) if prompt.system else ()


def _parts(text: str, problem: Problem, auxiliary: AuxiliaryImage) -> list[Message]:
    pieces = _MARKS.split(text)
    if pieces.count(IMAGE) != len(problem.images) or pieces.count(AUXILIARY_IMAGE) != 1:
        raise DataError(
            f"problem {problem.id}: its prompt has {pieces.count(IMAGE)} marks <image> for {len(problem.images)} "
            f"images and {pieces.count(AUXILIARY_IMAGE)} <auxiliary_image>, expected one mark an image and one "
            "<auxiliary_image>: correct the question or the template"
        )
    images = iter(problem.images)
    parts: list[Message] = []
    for piece in pieces:
        if piece in (IMAGE, AUXILIARY_IMAGE):
            parts.append(image_part(next(images) if piece == IMAGE else auxiliary.image, problem.id))
        elif piece.strip():
            parts.append(text_part(piece.strip()))
    return parts
