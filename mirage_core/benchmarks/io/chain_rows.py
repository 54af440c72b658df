"""Rows of two published training sets whose answers hold images or boxes: Visual-CoT and Monet-SFT-125K.

They are read and checked as published; no benchmark scores them.

Visual-CoT (``deepcs233/Visual-CoT``, arXiv 2403.16999) in three layouts: ``viscot_363k.json`` (LLaVA's: ``image`` is a
path and the same path with "###[x0, y0, x1, y1]" in pixels; four turns, the third shows the crop), the JSON lines of
``metadata/`` (question, answer, image, width, height, ``bboxs`` in pixels, dataset), and LVR's (arXiv 2509.24251: one
image, two turns, normalised ``bboxes``). Pictures lie below ``cot/<dataset>/``.

Monet-SFT-125K (``NOVAglow646/Monet-SFT-125K``, arXiv 2511.21395): ``<subset>/train.json``, a list of ``metadata`` and
``data``, chat turns of text and image parts, with ``<abs_vis_token></abs_vis_token>`` before each auxiliary image and
``<observation>`` around the words that only that image tells. Paths start at the data set's folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirage_core.benchmarks.io.faults import converted
from mirage_core.benchmarks.io.hub_rows import as_utf8, is_json_list, json_list
from mirage_core.benchmarks.io.jsonl import Row, plain_text, read_image_file, read_rows
from mirage_core.errors import DataError
from mirage_core.image_files import displayed_size
from mirage_core.types import IMAGE_PLACE, OBSERVED

LATENT_MARK, OBSERVATION = IMAGE_PLACE, OBSERVED
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1, each from 0 to 1."""
_PIXEL_BOX = re.compile(r"###\[([-\d.]+), *([-\d.]+), *([-\d.]+), *([-\d.]+)\]$")
_BOX_REQUEST = re.compile(r"\s*Please (?:think step by step and )?provide the bounding box coordinate of .*$")
_IMAGE_FOLDERS = {"textcap": "textvqa"}
"""Where a data set's pictures lie if not in the folder of its own name (tools/convert_data_to_llava_format.py)."""
_OVERHANG = 0.025
"""How far a published box may stand out of its image, as a share of the side; it is cut off there."""
_FILTERED = "created_dataset/filtered_data/"
"""What the paths of Monet's own copy begin with (src/task.py)."""


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

    @property
    def auxiliary(self) -> tuple[bytes, ...]:
        """The auxiliary images."""
        return tuple(part for part in self.answer if isinstance(part, bytes))

    @property
    def texts(self) -> tuple[str, str]:
        """The text before the first auxiliary image, and that after it, where marks are the places of the others."""
        first = next((at for at, part in enumerate(self.answer) if isinstance(part, bytes)), len(self.answer))
        following = (*self.answer[1:], "")
        words = [
            part.rstrip() if isinstance(after, bytes) else part
            for part, after in zip(self.answer, following, strict=True)
            if isinstance(part, str)
        ]
        return "".join(words[:first]).removesuffix(LATENT_MARK), "".join(words[first:])


def visual_cot_rows(source: Path) -> Iterator[VisualCotRow]:
    """Yield the rows of a file or of the data set's folder; DataError names the row that is not as published."""
    rows = _records(source, "viscot_363k.json", "metadata/*.jsonl")
    yield from converted(rows, lambda row: (_llava_row if "conversations" in row.values else _metadata_row)(row))


def _llava_row(row: Row) -> VisualCotRow:
    turns, name = row.values["conversations"], row.values.get("image")
    if not isinstance(turns, list) or [_of(turn, "from") for turn in turns] not in (_TURNS, _TURNS * 2):
        raise DataError(
            f"{row.where}: conversations is {str(turns)[:60]!r}, expected a turn of human and one of gpt, or two each"
        )
    listed = name if isinstance(name, list) else [name]
    names = [one for one in listed if isinstance(one, str)]
    if len(names) != len(listed) or len(names) not in (1, 2):
        raise DataError(f"{row.where}: image is {str(name)[:60]!r}, expected the name of one file, or it and its box")
    image = _image(row, [names[0]])
    if len(names) == 2:
        marked = _PIXEL_BOX.search(names[1])
        boxes = _shares(row, [[float(side) for side in marked.groups()]] if marked else None, image)
    else:
        boxes = _boxes(row)
    question = _BOX_REQUEST.sub("", str(_of(turns[0], "value")).replace("<image>", ""))
    answer = str(_of(turns[-1], "value"))
    return VisualCotRow(
        question=plain_text(question).strip(), answer=plain_text(answer).strip(), image=image, boxes=boxes
    )


_TURNS = ["human", "gpt"]


def _metadata_row(row: Row) -> VisualCotRow:
    dataset = row.text("dataset")
    folder = _IMAGE_FOLDERS.get(dataset, dataset)
    name = row.file_name("image")
    image = _image(row, [f"cot/{folder}/{name}", f"{folder}/{name}", name])
    return VisualCotRow(
        question=row.text("question").strip(),
        answer=row.text("answer").strip(),
        image=image,
        boxes=_shares(row, row.values.get("bboxs"), image),
    )


def _image(row: Row, names: Sequence[str]) -> bytes:
    """The first of several names that is a file; DataError about the first if none is."""
    error: DataError | None = None
    for name in names:
        try:
            return read_image_file(row, "image", name, from_root=True)[0]
        except DataError as fault:
            error = error or fault
    raise error or DataError(f"{row.where}: it names no image")


def monet_rows(source: Path) -> Iterator[MonetRow]:
    """Yield the rows of a file or of the data set's folder; DataError names the row that is not as published."""
    yield from converted(_records(source, "train.json", "*/train.json"), _monet_row)


def _monet_row(row: Row) -> MonetRow:
    turns: dict[str, list[Any]] = {}
    listed = row.values.get("data")
    for turn in listed if isinstance(listed, list) else ():
        content = _of(turn, "content")
        turns.setdefault(str(_of(turn, "role")), []).extend(content if isinstance(content, list) else [content])
    if not {"user", "assistant"} <= turns.keys():
        raise DataError(f"{row.where}: data has the turns {sorted(turns)}, expected user and assistant")
    question = _parts(row, turns["user"])
    answer = _parts(row, turns["assistant"])
    _check_markers(row, answer)
    return MonetRow(
        dataset=str(_of(row.values.get("metadata"), "dataset_name") or ""),
        question="\n".join(part for part in question if isinstance(part, str)).strip(),
        images=tuple(part for part in question if isinstance(part, bytes)),
        answer=_without_early_observations(answer),
    )


def _without_early_observations(answer: Sequence[str | bytes]) -> tuple[str | bytes, ...]:
    """An answer without observation tags before its first auxiliary image, as Monet's src/task.py reads it."""
    first = next((at for at, part in enumerate(answer) if isinstance(part, bytes)), len(answer))
    untagged = [
        part.replace(OBSERVATION[0], "").replace(OBSERVATION[1], "") for part in answer[:first] if isinstance(part, str)
    ]
    return (*untagged, *answer[first:])


def _records(source: Path, *patterns: str) -> Iterator[Row]:
    """Yield the rows of a file (JSON lines or one list), or of the files in a folder that match the first pattern."""
    path = source.expanduser()
    files = [path] if path.is_file() else next((found for one in patterns if (found := sorted(path.glob(one)))), [])
    if not files:
        raise DataError(
            f"{source} is no file and no folder with {' or '.join(patterns)}: expected the data set as published"
        )
    for file in files:
        with as_utf8(file):
            if is_json_list(file):
                yield from (Row(file, number, record) for number, record in enumerate(json_list(file), start=1))
            else:
                yield from read_rows(file)


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


def _shares(row: Row, boxes: Any, image: bytes) -> tuple[Box, ...]:
    """Boxes in pixels as shares of the image's sides, cut off at its border; DataError for one outside of it."""
    width, height = displayed_size(image, f"{row.where}: the image")
    sides = (width, height, width, height)
    if not isinstance(boxes, list) or not boxes:
        raise DataError(
            f"{row.where}: the boxes are {str(boxes)[:60]!r}, expected a list of [x0, y0, x1, y1] in pixels"
        )
    shares = []
    for box in boxes:
        if not (isinstance(box, list) and len(box) == 4 and all(isinstance(side, int | float) for side in box)):
            raise DataError(f"{row.where}: a box is {str(box)[:60]!r}, expected [x0, y0, x1, y1]")
        x0, y0, x1, y1 = (side / length for side, length in zip(box, sides, strict=True))
        if not (-_OVERHANG <= x0 < x1 <= 1 + _OVERHANG and -_OVERHANG <= y0 < y1 <= 1 + _OVERHANG):
            raise DataError(f"{row.where}: the box {box} is not within the image of {width}x{height} pixels")
        shares.append((max(x0, 0.0), max(y0, 0.0), min(x1, 1.0), min(y1, 1.0)))
    return tuple(shares)


def _parts(row: Row, content: Sequence[Any]) -> tuple[str | bytes, ...]:
    """The text and image parts of a role's turns, in their order."""
    parts: list[str | bytes] = []
    for part in content:
        text = part if isinstance(part, str) else _of(part, "text") if _of(part, "type") == "text" else None
        name = (_of(part, "image") or _of(part, "image_file_name")) if _of(part, "type") == "image" else None
        if isinstance(text, str):
            parts.append(plain_text(text))
        elif isinstance(name, str):
            parts.append(_image(row, [name.removeprefix(_FILTERED)]))
        else:
            raise DataError(f"{row.where}: a part is {str(part)[:60]!r}, expected a text or the path of an image")
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
