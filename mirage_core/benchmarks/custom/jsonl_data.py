"""Your own data without code: one JSONL file, a question a line, with pictures beside it.

A line is an object with

- ``question``: text; ``<image>`` marks where each picture stands (before it, where no mark does)
- ``images``: a list of PNG or JPEG files, relative to the file
- ``answer``: the right answer; with ``options`` (a list) it is one of them, or its letter
- ``auxiliary_image``: the picture to imagine; needed on lines that are trained on
- ``text_before`` and ``text_after``: a chain of your own round that picture (else a teacher writes one)
- ``id``, ``group`` (what accuracy is broken down by), ``split`` (train, validation, test): where you want to say them
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from mirage_core.benchmarks import multiple_choice as choices
from mirage_core.benchmarks.answer_parsing import boxed
from mirage_core.benchmarks.io.jsonl import Row, read_lines, read_picture_file
from mirage_core.benchmarks.vsp_prompts import PromptForm
from mirage_core.config import OwnData
from mirage_core.errors import DataError, SettingsError
from mirage_core.types import Given, Problem, Score, Split, Variant

NAME = "own"
GROUPS = ("own",)
RULES = ("exact-or-letter",)
KEYS = (
    "id", "question", "images", "options", "answer", "auxiliary_image", "text_before", "text_after", "group", "split",
)  # fmt: skip
_SPLITS = get_args(Split)
MARK = "<image>"


@dataclass(frozen=True, slots=True)
class OwnRow:
    """A line as a problem, and what it gives."""

    line: int
    problem: Problem
    given: Given | None


def load(file: str | Path, split: Split = "test") -> list[Problem]:
    """The problems of a file that belong to a split (or say none); DataError names the first line with a fault."""
    return [row.problem for row in rows_of(OwnData(file=str(file))) if row.problem.split == split]


def rows_of(data: OwnData) -> Iterator[OwnRow]:
    """Every line, the split of lines that name none chosen by digest; DataError names the line and all its faults."""
    for line, row, faults in checked_rows(data):
        if row is None:
            raise DataError("; ".join(faults) + ". See every fault: mirage data check " + data.file)
        yield OwnRow(line, *row)


def checked_rows(data: OwnData) -> Iterator[tuple[int, tuple[Problem, Given | None] | None, list[str]]]:
    """Every line with its problem, or with the faults that keep it from being one."""
    seen: dict[str, int] = {}
    for row in read_lines(Path(data.file).expanduser()):
        if isinstance(row, DataError):
            yield 0, None, [str(row)]
            continue
        faults: list[str] = []
        made = _problem(row, data, faults)
        if made and made[0].id in seen:
            faults.append(f"{row.where}: the id {made[0].id!r} stands on line {seen[made[0].id]} already")
        if made:
            seen.setdefault(made[0].id, row.line)
        yield row.line, None if faults else made, faults


def _problem(row: Row, data: OwnData, faults: list[str]) -> tuple[Problem, Given | None] | None:
    """The problem of a line, None with all its faults noted."""
    reader = _Reader(row, faults)
    reader.refuse_unknown()
    question, answer = reader.text("question") or "", reader.text("answer") or ""
    options, images = reader.texts("options"), reader.pictures("images")
    identity = reader.text("id", needed=False) or f"{NAME}-{_digest(row)}"
    split = reader.one_of("split", _SPLITS) or _split_of(identity, data)
    given = _given(reader, identity)
    if split != "test" and row.values.get("auxiliary_image") is None:
        reader.note(f"it is trained on ({split}), so it needs auxiliary_image, the picture to imagine")
    marked = question if MARK in question else f"{MARK}\n" * len(images) + question
    if images and marked.count(MARK) != len(images):
        reader.note(f"the question has {marked.count(MARK)} times {MARK} for {len(images)} pictures")
    if options and answer:
        try:
            answer, marked = choices.right_letter(answer, options), choices.with_options(marked, options)
        except DataError as error:
            reader.note(str(error))
    if faults:
        return None
    problem = Problem(
        id=identity,
        benchmark=NAME,
        split=split,
        group=reader.text("group", needed=False) or GROUPS[0],
        question=marked,
        images=images,
        answer=answer,
        facts={"options": options} if options else {},
    )
    return problem, given


def _given(reader: _Reader, identity: str) -> Given | None:
    before, after = reader.text("text_before", needed=False), reader.text("text_after", needed=False)
    if (before is None) != (after is None):
        reader.note("text_before and text_after go together: give both, or none")
    picture = reader.picture("auxiliary_image")
    if picture is None:
        return None
    return Given(problem_id=identity, image=picture, style="own", text_before=before, text_after=after)


def prompt(problem: Problem, form: PromptForm, variant: Variant) -> str:
    """What a model is asked: the line's own words and the variant's ending."""
    return choices.prompt(problem, form, variant)


def score(problem: Problem, output: str, rule: str = RULES[0]) -> Score:
    """With options the chosen letter; without, the box's text, equal but for case, spaces and a full stop."""
    if rule not in (*RULES, choices.RULE, "mirage", "vsp"):
        raise SettingsError(f"unknown rule {rule!r} for {NAME}; expected {RULES[0]}")
    if "options" in problem.facts:
        judged = choices.score(problem, output)
        return Score(problem_id=problem.id, correct=judged.correct, parsed=judged.parsed, rule=RULES[0])
    parsed = boxed(output)
    correct = parsed is not None and _plain(parsed) == _plain(problem.answer)
    return Score(problem_id=problem.id, correct=correct, parsed=parsed, rule=RULES[0])


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(". ")


def _digest(row: Row) -> str:
    told = repr(sorted((key, str(value)) for key, value in row.values.items()))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _split_of(identity: str, data: OwnData) -> Split:
    share = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
    if share < data.test_share:
        return "test"
    return "validation" if share < data.test_share + data.validation_share else "train"


class _Reader:
    """Reads the values of a line and notes every fault, so that one check shows them all."""

    def __init__(self, row: Row, faults: list[str]) -> None:
        self._row, self._faults = row, faults

    def note(self, fault: str) -> None:
        """Note a fault with its place."""
        self._faults.append(f"{self._row.where}: {fault}")

    def refuse_unknown(self) -> None:
        """Keys nobody reads are spelling mistakes."""
        for key in sorted(set(self._row.values) - set(KEYS)):
            self.note(f"unknown key {key!r}; known: {', '.join(KEYS)}")

    def text(self, key: str, needed: bool = True) -> Any:
        """A text that is not empty; None where it is missing or wrong."""
        value = self._row.values.get(key)
        if value is None:
            if needed:
                self.note(f"{key} is missing")
        elif not isinstance(value, str) or (needed and not value.strip()):
            self.note(f"{key} is {str(value)[:40]!r}, expected text")
            return None
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts, empty where it is not given."""
        value = self._row.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.note(f"{key} is {str(value)[:40]!r}, expected a list of texts")
            return []
        return value

    def one_of(self, key: str, known: Sequence[str]) -> Any:
        """One of the known words, or None where it is not given."""
        value = self._row.values.get(key)
        if value is not None and value not in known:
            self.note(f"{key} is {value!r}, expected one of {', '.join(known)}")
        return value

    def pictures(self, key: str) -> tuple[bytes, ...]:
        """The pictures of a list of files, at least one."""
        names = self.texts(key)
        if not names:
            self.note(f"{key} is missing: name at least one PNG or JPEG")
        return tuple(found for found in (self._read(key, name) for name in names) if found is not None)

    def picture(self, key: str) -> bytes | None:
        """One picture, None where it is not given or cannot be read."""
        name = self.text(key, needed=False)
        return None if name is None else self._read(key, name)

    def _read(self, key: str, name: str) -> bytes | None:
        try:
            return read_picture_file(self._row, key, name)[0]
        except DataError as error:
            self._faults.append(str(error))
            return None


def example_line() -> Mapping[str, Any]:
    """A line that has everything, for help texts."""
    return {
        "question": "Which exit does the ball reach? <image>",
        "images": ["ball.png"],
        "options": ["the left one", "the right one"],
        "answer": "the right one",
        "auxiliary_image": "ball-path.png",
        "text_before": "<think>I imagine the path of the ball.</think>",
        "text_after": "<think>It ends at the right.</think>\\boxed{B}",
    }
