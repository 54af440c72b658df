"""V*: small objects in large photographs, asked with two or four options.

Published as ``craigwu/vstar_bench``: ``test_questions.jsonl`` (image, text, category, label) beside the folders
``direct_attributes`` and ``relative_position``, which hold the images, each with a JSON file (question, options with
the right one first, target_object, bbox). 191 questions. A folder, the JSONL file, a parquet file with the columns of
the JSONL, or the hub id are read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from mirage_core.benchmarks.benchmark import Benchmark
from mirage_core.benchmarks.io.faults import converted
from mirage_core.benchmarks.io.hub_rows import PublishedRow, hub_folder, published_rows
from mirage_core.benchmarks.io.jsonl import LARGE_IMAGE_PIXELS
from mirage_core.benchmarks.multiple_choice import LETTER_RULES, prompt, published_problem, scorer
from mirage_core.benchmarks.official import letters as official
from mirage_core.errors import DataError
from mirage_core.json_values import read_json
from mirage_core.types import Problem, Split

NAME = "vstar"
SOURCE = "craigwu/vstar_bench"
GROUPS = ("direct_attributes", "relative_position")
QUESTIONS = "test_questions.jsonl"
OFFICIAL_RULE = "vstar-official"
ENDING = "\nAnswer with the option's letter from the given choices directly."
_OPTION = re.compile(r"^[ \t]*\(([A-Z])\)[ \t]*(.+?)[ \t]*$", flags=re.MULTILINE)


def load(file: str | Path, split: Split = "test") -> list[Problem]:
    """Every question of a folder, file or hub id; DataError names the row."""
    return [*converted(_rows(Path(file).expanduser()), lambda row: _problem(row, split))]


def _rows(path: Path) -> Iterator[PublishedRow]:
    if not path.exists() and len(path.parts) == 2:
        path = hub_folder(path.as_posix())
    if path.is_dir() and (path / QUESTIONS).is_file():
        yield from published_rows(str(path / QUESTIONS))
    elif path.is_dir() and any((path / group).is_dir() for group in GROUPS):
        yield from _annotated(path)
    else:
        yield from published_rows(str(path))


def _annotated(folder: Path) -> Iterator[PublishedRow]:
    """The questions of the images' own JSON files; the right option gets a position fixed by the question's digest."""
    files = sorted(file for group in GROUPS for file in (folder / group).glob("*.json"))
    for number, file in enumerate(files, start=1):
        try:
            values = read_json(file.read_bytes())
            question, (right, *wrong) = str(values["question"]), [str(option) for option in values["options"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}: expected JSON with question and options, the right one first ({error})") from None
        position = hashlib.sha256(f"{file.name}/{question}".encode()).digest()[0] % (1 + len(wrong))
        options = [*wrong[:position], right, *wrong[position:]]
        image = next((path for path in file.parent.glob(file.stem + ".*") if path.suffix != ".json"), None)
        if image is None:
            raise DataError(f"{file}: the image {file.stem}.jpg is missing beside it")
        lines = [f"({letter}) {text}" for letter, text in zip("ABCDEFGH", options, strict=False)]
        row = {
            "image": f"{file.parent.name}/{image.name}",
            "text": "\n".join([question, *lines]),
            "category": file.parent.name,
            "label": "ABCDEFGH"[position],
            "question_id": f"{file.parent.name}-{file.stem}",
        }
        yield PublishedRow(str(file), number, row, folder / QUESTIONS)


def _problem(row: PublishedRow, split: Split) -> Problem:
    text, group = row.text("text").replace(ENDING.strip(), "").strip(), row.text("category")
    options = [match.group(2) for match in _OPTION.finditer(_options_on_lines(text))]
    if group not in GROUPS:
        raise DataError(f"{row.where}: category {group!r} is none of {', '.join(GROUPS)}")
    return published_problem(
        f"{NAME}-{row.values.get('question_id', row.number - 1)}",
        NAME,
        group,
        split=split,
        body=_options_on_lines(text),
        ending=ENDING,
        images=(row.image(row.value("image"), "image", LARGE_IMAGE_PIXELS),),
        options=options,
        answer=row.text("label"),
        where=row.where,
        facts={"type": group},
    )


def _options_on_lines(text: str) -> str:
    """A text with each option on its own line, also where a row has all of them on one."""
    return re.sub(r"\s*(\([A-H]\)\s)", r"\n\1", text).strip()


BENCHMARK = Benchmark(
    NAME,
    GROUPS,
    (*LETTER_RULES, OFFICIAL_RULE),
    load,
    scorer(OFFICIAL_RULE, lambda output, _: official.vstar(output)),
    prompt,
    source=SOURCE,
    official=OFFICIAL_RULE,
)
