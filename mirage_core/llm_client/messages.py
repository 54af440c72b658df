"""Chat messages with pictures in them, as OpenAI-compatible endpoints take them."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mirage_core import benchmarks
from mirage_core.errors import DataError
from mirage_core.llm_client.prompt_templates import Prompt
from mirage_core.types import AuxiliaryImage, Problem, Variant

Message = Mapping[str, Any]
IMAGE = "<image>"
AUXILIARY_IMAGE = "<auxiliary_image>"
LONGEST_QUOTE = 4000
_MARKS = re.compile(f"({IMAGE}|{AUXILIARY_IMAGE})")
_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}


def first_messages(
    prompt: Prompt, problem: Problem, auxiliary: AuxiliaryImage, variant: Variant
) -> tuple[Message, ...]:
    """The question with its pictures, the right answer, the auxiliary picture, and what to write (Paper, section 3.1).

    Raises DataError when the question's marks and the problem's pictures do not agree.
    """
    asked = benchmarks.get(problem.benchmark).prompt(problem, "benchmark", variant).strip()
    text = prompt.question(question=asked, answer=problem.answer)
    parts = _parts(text, problem, auxiliary)
    system: list[Message] = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return (*system, {"role": "user", "content": parts})


def next_messages(first: Sequence[Message], prompt: Prompt, answer: str, reasons: str) -> tuple[Message, ...]:
    """The first messages, the answer that was not accepted, and why."""
    quoted = answer[:LONGEST_QUOTE].strip() or "(no text)"
    return (
        *first,
        {"role": "assistant", "content": quoted},
        {"role": "user", "content": prompt.complaint(reasons)},
    )


def _parts(text: str, problem: Problem, auxiliary: AuxiliaryImage) -> list[Message]:
    pieces = _MARKS.split(text)
    if pieces.count(IMAGE) != len(problem.images) or pieces.count(AUXILIARY_IMAGE) != 1:
        raise DataError(
            f"problem {problem.id}: its prompt has {pieces.count(IMAGE)} marks <image> for {len(problem.images)} "
            f"pictures and {pieces.count(AUXILIARY_IMAGE)} <auxiliary_image>, expected one mark a picture and one "
            "<auxiliary_image>: correct the question or the template"
        )
    pictures = iter(problem.images)
    parts: list[Message] = []
    for piece in pieces:
        if piece in (IMAGE, AUXILIARY_IMAGE):
            data = next(pictures) if piece == IMAGE else auxiliary.image
            parts.append({"type": "image_url", "image_url": {"url": data_url(data, problem.id)}})
        elif piece.strip():
            parts.append({"type": "text", "text": piece.strip()})
    return parts


def data_url(picture: bytes, problem_id: str) -> str:
    """An encoded picture as a data URL; DataError for what is neither PNG, JPEG nor WebP."""
    kind = next((kind for start, kind in _KINDS.items() if picture.startswith(start)), None)
    if kind is None:
        raise DataError(f"problem {problem_id}: a picture is neither PNG, JPEG nor WebP; convert it first")
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"
