"""CoMT, chains of multi-modal thought: questions whose published rationale contains images.

Published as ``czh-up/comt``: ``comt/data.jsonl`` beside ``comt/images/<type>/``; a row has id, question, option, image,
rationale, answer, type and annotations.
The image of a rationale is the auxiliary image, the text around it is the chain. Mirage trains on the geometry part
without publishing its rows; here these are the rows of type "creation" (figures that gain a line), unless the settings
name other types.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirage_core.benchmarks.benchmark import Benchmark
from mirage_core.benchmarks.io.faults import converted
from mirage_core.benchmarks.io.hub_rows import hub_folder
from mirage_core.benchmarks.io.jsonl import Row, is_file, read_image_file, read_rows
from mirage_core.benchmarks.multiple_choice import LETTER_RULES, LETTERS, prompt, right_letter, scorer, with_options
from mirage_core.benchmarks.official import letters as official
from mirage_core.errors import DataError
from mirage_core.image_files import SUFFIXES
from mirage_core.types import Problem, ProvidedImage, Split

NAME = "comt"
OFFICIAL_RULE = "comt-official"
TYPES = ("creation", "deletion", "update", "selection")
_IMAGE_REFERENCE = re.compile(r"\[?\bIMAGE(\d{1,9})\b(?::[^\]\s]*)?\]?")


@dataclass(frozen=True, slots=True)
class ComtRow:
    """A problem with its published image and chain; ``provided`` is None if the rationale shows no new image."""

    problem: Problem
    provided: ProvidedImage | None


def load(file: Path | str, split: Split = "test") -> list[Problem]:
    """The rows of a published ``data.jsonl``, of its folder or of a hub id; DataError names file and line."""
    return [row.problem for row in read(file, split)]


def read(source: Path | str, split: Split = "test") -> list[ComtRow]:
    """Every row with the image that its rationale provides; ``source`` is a file, a folder, a clone or a hub id."""
    return [*converted(read_rows(_rows_file(str(source))), lambda row: _row(row, split))]


def _rows_file(source: str) -> Path:
    path = Path(source).expanduser()
    if not path.exists() and source.count("/") == 1 and not source.startswith((".", "/", "~")):
        path = hub_folder(source)
    if path.is_dir():
        names = ("data.jsonl", "comt/data.jsonl")
        path = next((path / name for name in names if (path / name).is_file()), path / names[0])
    return path


def _row(row: Row, split: Split) -> ComtRow:
    kind, names = row.text("type"), _image_names(row)
    if kind not in TYPES:
        raise DataError(f"{row.where}: type {kind!r} is none of {', '.join(TYPES)}")
    in_question, in_rationale = _references(row.text("question")), _references(row.text("rationale"))
    unknown = sorted({*in_question, *in_rationale} - set(names))
    if unknown:
        raise DataError(f"{row.where}: IMAGE{unknown[0]} is mentioned, but the row names {sorted(names)} only")
    inputs = in_question or [number for number in names if number not in in_rationale][:1] or [min(names)]
    images = [_image(row, kind, names[number]) for number in inputs]
    problem = _problem(row, split, kind, images, question_has_references=bool(in_question))
    new = [number for number in in_rationale if number not in inputs]
    return ComtRow(problem, _provided_image(row, problem, kind, names, new) if new else None)


def _problem(row: Row, split: Split, kind: str, images: list[bytes], question_has_references: bool) -> Problem:
    options = row.values.get("option")
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise DataError(f"{row.where}: option is {str(options)[:60]!r}, expected a list of texts")
    texts = [re.sub(r"^\s*\(?[A-Z][.:)]\s*", "", option) for option in options]
    question = row.text("question")
    question = _IMAGE_REFERENCE.sub("<image>", question) if question_has_references else f"<image>\n{question}"
    try:
        letter, question = _right_letter(row.text("answer"), texts), with_options(question, texts)
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from error
    return Problem(
        id=f"{NAME}-{row.text('id')}",
        benchmark=NAME,
        split=split,
        group=kind,
        question=question,
        images=tuple(images),
        answer=letter,
        facts={"options": texts, "type": kind},
    )


def _provided_image(
    row: Row, problem: Problem, kind: str, names: Mapping[int, str], numbers: Sequence[int]
) -> ProvidedImage:
    """The last new image of the rationale, and the text on both sides of its first mention, as thoughts.

    All new images are its frames.
    """
    rationale, number = row.text("rationale"), numbers[-1]
    frames = tuple(_image(row, kind, names[each]) for each in numbers)
    mention = next(match for match in _IMAGE_REFERENCE.finditer(rationale) if int(match.group(1)) == number)
    sides = (rationale[: mention.start()], rationale[mention.end() :])
    before, after = (_IMAGE_REFERENCE.sub("", text).strip() for text in sides)
    return ProvidedImage(
        problem_id=problem.id,
        image=frames[-1],
        style="rationale",
        text_before=f"<think>{before}</think>",
        text_after=f"<think>{after.lstrip('.,;: ')}</think>\\boxed{{{problem.answer}}}",
        frames=frames,
    )


def _references(text: str) -> list[int]:
    """The numbers of the images that a text mentions, each once, in order."""
    return list(dict.fromkeys(int(number) for number in _IMAGE_REFERENCE.findall(text)))


def _image_names(row: Row) -> dict[int, str]:
    """Image names by their number, from {"IMAGE0": "ID"}, that object as text, or ["[IMAGE0:ID]", ...]."""
    value = _as_object(row.values.get("image"))
    pairs: list[tuple[str, str]] = []
    if isinstance(value, dict):
        pairs = [(str(key), str(name)) for key, name in value.items()]
    elif isinstance(value, list):
        pairs = [(head, tail) for head, _, tail in (str(item).strip("[] ").partition(":") for item in value)]
    names = {int(key.removeprefix("IMAGE")): name for key, name in pairs if re.fullmatch(r"IMAGE\d{1,9}", key) and name}
    if not names or len(names) < len(pairs):
        raise DataError(f'{row.where}: image is {str(value)[:80]!r}, expected {{"IMAGE0": "ID", ...}}')
    return names


def _as_object(value: Any) -> Any:
    """A value that a table of the data set holds as JSON or as Python's spelling of it."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (
        ValueError,
        SyntaxError,
        TypeError,
        RecursionError,
        MemoryError,
    ):  # all of them are ast's, for strange texts
        return value


def _right_letter(answer: str, options: list[str]) -> str:
    """The published answer: always a letter, also where it is the text of an option."""
    letter = answer.strip(" ().").upper()
    return letter if letter in LETTERS[: len(options)] else right_letter(answer, options)


def _image(row: Row, kind: str, name: str) -> bytes:
    """The image of an id: images/<type>/<id> with any usual suffix, inside the data set's folder."""
    suffixes = [""] if name.lower().endswith(SUFFIXES) else list(SUFFIXES)
    folders = (f"images/{kind}/", f"images/{kind}/original/", "images/", "")
    candidates = [f"{folder}{name}{suffix}" for folder in folders for suffix in suffixes]
    for candidate in candidates:
        if is_file(row.file.parent / candidate):
            return read_image_file(row, "image", candidate)[0]
    raise DataError(
        f"{row.where}: the image {name!r:.200} is missing; looked for {candidates[0]:.300} and "
        f"{len(candidates) - 1} others"
    )


def official_prompt(problem: Problem) -> str:
    """The question with its options and the form of answer of CoMT's README; the authors' prompt is not published."""
    return f"{problem.question}\nEnd your answer with the letter of the right choice in this form: ANSWER: (A)"


BENCHMARK = Benchmark(
    NAME,
    TYPES,
    (*LETTER_RULES, OFFICIAL_RULE),
    load,
    scorer(OFFICIAL_RULE, official.comt),
    prompt,
    official=OFFICIAL_RULE,
    official_prompt=official_prompt,
)
