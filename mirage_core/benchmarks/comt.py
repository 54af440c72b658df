"""CoMT, chains of multi-modal thought: questions whose published rationale holds pictures.

Published as ``data.jsonl`` beside ``images/<type>/``: id, question, option, image, rationale, answer, type and
annotations.
The picture of a rationale is the auxiliary image, the words round it are the chain. Mirage trains on the geometry
part and does not publish which rows these are; here they are the rows of type "creation" (figures that gain a line),
unless the settings name other types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mirage_core.benchmarks.io.jsonl import Row, read_picture_file, read_rows
from mirage_core.benchmarks.multiple_choice import RULE, prompt, right_letter, score, with_options
from mirage_core.errors import DataError
from mirage_core.types import Given, Problem, Split

NAME = "comt"
TYPES = ("creation", "deletion", "update", "selection")
GROUPS = TYPES
RULES = (RULE,)
GEOMETRY = ("creation",)
_MARK = re.compile(r"\[?\bIMAGE(\d+)\b(?::[^\]\s]*)?\]?")
_SUFFIXES = (".png", ".jpg", ".jpeg")
__all__ = ["GEOMETRY", "GROUPS", "NAME", "RULES", "TYPES", "load", "prompt", "read", "score"]


@dataclass(frozen=True, slots=True)
class ComtRow:
    """A problem, and its published picture and chain; ``given`` is None where the rationale shows no new picture."""

    problem: Problem
    given: Given | None


def load(file: Path, split: Split = "test") -> list[Problem]:
    """The rows of a published ``data.jsonl`` (or the folder it lies in); DataError names file and line."""
    return [row.problem for row in read(file, split)]


def read(file: Path, split: Split = "test") -> list[ComtRow]:
    """Every row with what its rationale gives."""
    path = file / "data.jsonl" if file.is_dir() else file
    return [_row(row, split) for row in read_rows(path)]


def _row(row: Row, split: Split) -> ComtRow:
    kind, names = row.text("type"), _image_names(row)
    if kind not in TYPES:
        raise DataError(f"{row.where}: type {kind!r} is none of {', '.join(TYPES)}")
    asked, shown = _marks(row.text("question")), _marks(row.text("rationale"))
    unknown = sorted({*asked, *shown} - set(names))
    if unknown:
        raise DataError(f"{row.where}: IMAGE{unknown[0]} is mentioned, but the row names {sorted(names)} only")
    inputs = asked or [number for number in names if number not in shown][:1] or [min(names)]
    problem = _problem(row, split, kind, [_picture(row, kind, names[number]) for number in inputs], bool(asked))
    new = [number for number in shown if number not in inputs]
    return ComtRow(problem, _given(row, problem, kind, names, new[-1]) if new else None)


def _problem(row: Row, split: Split, kind: str, images: list[bytes], marked: bool) -> Problem:
    options = row.values.get("option")
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise DataError(f"{row.where}: option is {str(options)[:60]!r}, expected a list of texts")
    texts = [re.sub(r"^\s*\(?[A-Z][.:)]\s*", "", option) for option in options]
    question = _MARK.sub("<image>", row.text("question")) if marked else "<image>\n" + row.text("question")
    try:
        letter, words = right_letter(row.text("answer"), texts), with_options(question, texts)
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from error
    return Problem(
        id=f"{NAME}-{row.text('id')}",
        benchmark=NAME,
        split=split,
        group=kind,
        question=words,
        images=tuple(images),
        answer=letter,
        facts={"options": texts, "type": kind},
    )


def _given(row: Row, problem: Problem, kind: str, names: Mapping[int, str], number: int) -> Given:
    """The last picture the rationale brings in, and the words on both sides of its first mention, as thoughts."""
    rationale = row.text("rationale")
    at = next(found for found in _MARK.finditer(rationale) if int(found.group(1)) == number)
    before, after = (_MARK.sub("", text).strip() for text in (rationale[: at.start()], rationale[at.end() :]))
    picture = _picture(row, kind, names[number])
    return Given(
        problem_id=problem.id,
        image=picture,
        style="rationale",
        text_before=f"<think>{before}</think>",
        text_after=f"<think>{after.lstrip('.,;: ')}</think>\\boxed{{{problem.answer}}}",
    )


def _marks(text: str) -> list[int]:
    """The numbers of the pictures a text mentions, each once, in order."""
    return list(dict.fromkeys(int(found) for found in _MARK.findall(text)))


def _image_names(row: Row) -> dict[int, str]:
    """Picture names by their number, from {"IMAGE0": "ID"} or ["[IMAGE0:ID]", ...]."""
    value = row.values.get("image")
    pairs: list[tuple[str, str]] = []
    if isinstance(value, dict):
        pairs = [(str(key), str(name)) for key, name in value.items()]
    elif isinstance(value, list):
        pairs = [(head, tail) for head, _, tail in (str(item).strip("[] ").partition(":") for item in value)]
    found = {int(key.removeprefix("IMAGE")): name for key, name in pairs if re.fullmatch(r"IMAGE\d+", key) and name}
    if not found or len(found) < len(pairs):
        raise DataError(f'{row.where}: image is {str(value)[:80]!r}, expected {{"IMAGE0": "ID", ...}}')
    return found


def _picture(row: Row, kind: str, name: str) -> bytes:
    """The picture of an id: images/<type>/<id> with any usual suffix, inside the data set's folder."""
    suffixes = [""] if name.lower().endswith(_SUFFIXES) else list(_SUFFIXES)
    tried = [f"{folder}{name}{suffix}" for folder in (f"images/{kind}/", "images/", "") for suffix in suffixes]
    for candidate in tried:
        if (row.file.parent / candidate).is_file():
            return read_picture_file(row, "image", candidate)[0]
    raise DataError(f"{row.where}: the picture {name!r} is missing; looked for {tried[0]} and {len(tried) - 1} others")
