"""Rows of two published training sets whose answers hold images or boxes: Visual-CoT and Monet-SFT-125K.

They are read and checked as published; no benchmark scores them. Visual-CoT as arXiv 2509.24251 trains on it: LLaVA's
JSON (``image``, ``conversations``) with normalised ``bboxes``. Monet-SFT-125K (arXiv 2511.21395): ``metadata`` and
``data``, chat turns of text and image parts, with ``<abs_vis_token></abs_vis_token>`` before each auxiliary image and
``<observation>`` around the words that only that image tells.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirage_core.benchmarks.io.jsonl import Row, read_image_file, read_rows
from mirage_core.errors import DataError

LATENT_MARK = "<abs_vis_token></abs_vis_token>"
OBSERVATION = ("<observation>", "</observation>")
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1, each from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisualCotRow:
    """A question about one image, its answer, and the boxes to look at, as shares of the image's sides."""

    question: str
    answer: str
    image: bytes
    boxes: tuple[Box, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonetRow:
    """A question with its images, and an answer of text parts (str) and auxiliary images (bytes), in their order.

    Each auxiliary image follows a text that ends in ``LATENT_MARK``.
    """

    dataset: str
    question: str
    images: tuple[bytes, ...]
    answer: tuple[str | bytes, ...]


def visual_cot_rows(file: Path) -> Iterator[VisualCotRow]:
    """Yield the rows of a JSON or JSONL file; DataError names the row that is not as published."""
    for row in _records(file):
        turns = row.values.get("conversations")
        if not isinstance(turns, list) or [_of(turn, "from") for turn in turns[:2]] != ["human", "gpt"]:
            raise DataError(
                f"{row.where}: conversations is {str(turns)[:60]!r}, expected a turn of human and one of gpt"
            )
        name = row.values.get("image")
        names = name if isinstance(name, list) else [name]
        if len(names) != 1 or not isinstance(names[0], str):
            raise DataError(f"{row.where}: image is {str(name)[:60]!r}, expected the name of one file")
        yield VisualCotRow(
            question=str(_of(turns[0], "value")).replace("<image>", "").strip(),
            answer=str(_of(turns[1], "value")).strip(),
            image=read_image_file(row, "image", names[0])[0],
            boxes=_boxes(row),
        )


def monet_rows(file: Path) -> Iterator[MonetRow]:
    """Yield the rows of a JSON or JSONL file; DataError names the row that is not as published."""
    for row in _records(file):
        turns = {str(_of(turn, "role")): _of(turn, "content") for turn in row.values.get("data") or ()}
        if not {"user", "assistant"} <= turns.keys():
            raise DataError(f"{row.where}: data has the turns {sorted(turns)}, expected user and assistant")
        question, answer = _parts(row, turns["user"]), _parts(row, turns["assistant"])
        _check_markers(row, answer)
        metadata = row.values.get("metadata")
        yield MonetRow(
            dataset=str(_of(metadata, "dataset_name") or ""),
            question="\n".join(part for part in question if isinstance(part, str)).strip(),
            images=tuple(part for part in question if isinstance(part, bytes)),
            answer=answer,
        )


def _records(file: Path) -> Iterator[Row]:
    """Yield the rows of JSON lines, or of one JSON list, as both sets are published in."""
    with file.expanduser().open(encoding="utf-8-sig") as stream:
        is_list = stream.read(1) == "["
    if not is_list:
        yield from read_rows(file)
        return
    try:
        records = json.loads(file.expanduser().read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not valid JSON ({error})") from error
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(f"{file}, record {number}: expected a JSON object, got {type(record).__name__}")
        yield Row(file, number, record)


def _of(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _boxes(row: Row) -> tuple[Box, ...]:
    boxes = row.values.get("bboxes")
    if not isinstance(boxes, list) or not boxes:
        raise DataError(f"{row.where}: bboxes is {str(boxes)[:60]!r}, expected a list of [x0, y0, x1, y1]")
    for box in boxes:
        if not (isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)):
            raise DataError(f"{row.where}: a box is {str(box)[:60]!r}, expected [x0, y0, x1, y1]")
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise DataError(
                f"{row.where}: the box {box} is not within 0..1; divide pixels by the image's width and height"
            )
    return tuple((float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in boxes)


def _parts(row: Row, content: Any) -> tuple[str | bytes, ...]:
    """The text and image parts of a turn, in their order."""
    if isinstance(content, str):
        return (content,)
    if not isinstance(content, list):
        raise DataError(f"{row.where}: a turn's content is {type(content).__name__}, expected a list of parts")
    parts: list[str | bytes] = []
    for part in content:
        kind = _of(part, "type")
        if kind not in ("text", "image") or not isinstance(part.get(kind), str):
            raise DataError(f"{row.where}: a part is {str(part)[:60]!r}, expected a text or the path of an image")
        parts.append(part["text"] if kind == "text" else read_image_file(row, "image", part["image"])[0])
    return tuple(parts)


def _check_markers(row: Row, answer: Sequence[str | bytes]) -> None:
    """As many markers as auxiliary images, each right before its image; observations opened and closed."""
    text = "".join(part for part in answer if isinstance(part, str))
    marks, images = text.count(LATENT_MARK), sum(isinstance(part, bytes) for part in answer)
    if marks != images:
        raise DataError(f"{row.where}: the answer has {marks} times {LATENT_MARK} for {images} auxiliary images")
    for before, part in zip(("", *answer), answer, strict=False):
        if isinstance(part, bytes) and not (isinstance(before, str) and before.rstrip().endswith(LATENT_MARK)):
            raise DataError(f"{row.where}: an auxiliary image does not follow a text that ends in {LATENT_MARK}")
    opened, closed = (text.count(tag) for tag in OBSERVATION)
    if opened != closed:
        raise DataError(f"{row.where}: {opened} times {OBSERVATION[0]} and {closed} times {OBSERVATION[1]}")
