"""Your own data without code: one JSONL file, a question a line, with images beside it.

A line is an object with

- ``question``: text; ``<image>`` marks the position of each image (before the text, without marks)
- ``images``: a list of image files (PNG, JPEG, WebP, GIF, BMP, TIFF), relative to the file
- ``answer``: the right answer; with ``options`` (a list) it is one of them, or its letter
- ``auxiliary_image``: the image to imagine; lines for training need it, or ``boxes`` (then the first is cut out), or
- ``auxiliary_images``: the images of a film in their order; without ``auxiliary_image`` the last is the one to imagine
- ``boxes``: regions of the first image that the answer is about, each left, top, right, bottom as shares of its width
  and height; the method lvr needs them for training
- ``text_before`` and ``text_after``: your own chain around that image (else a teacher writes one)
- ``id``, ``group`` (accuracy is broken down by it), ``split`` (train, validation, test): optional
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from mirage_core.benchmarks import multiple_choice
from mirage_core.benchmarks.answer_parsing import boxed
from mirage_core.benchmarks.benchmark import Benchmark, check_rule
from mirage_core.benchmarks.io.chain_rows import OBSERVATION, MonetRow, VisualCotRow, monet_rows, visual_cot_rows
from mirage_core.benchmarks.io.jsonl import Row, plain_text, read_image_file, read_lines
from mirage_core.benchmarks.reading.texts import figures_of, is_figure, read_texts, text_key
from mirage_core.benchmarks.regions import BOXES, checked_box, cropped
from mirage_core.config import OwnData
from mirage_core.errors import DataError
from mirage_core.types import Problem, ProvidedImage, Score, Split

NAME = "own"
GROUPS = ("own",)
RULE = "exact-or-letter"
MONET = "monet"
"""The style of auxiliary images whose chain has marks: observed words, and the places of further images."""
KEYS = (
    "id", "question", "images", "options", "answer", "auxiliary_image", "auxiliary_images",
    "boxes", "text_before", "text_after", "group", "split",
)  # fmt: skip
_SPLITS = get_args(Split)
IMAGE_MARK = "<image>"
_TAGGED_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class OwnRow:
    """A line as a problem, with the auxiliary image it provides."""

    line: int
    problem: Problem
    provided: ProvidedImage | None


def load(file: str | Path, split: Split = "test") -> list[Problem]:
    """The problems of a file in a split; DataError names the first line with a fault."""
    return [row.problem for row in rows_of(OwnData(file=str(file))) if row.problem.split == split]


def rows_of(data: OwnData) -> Iterator[OwnRow]:
    """Yield every line, its split chosen by digest if it has none; DataError names the line and all its faults."""
    if data.layout == "visual_cot":
        for number, published in enumerate(visual_cot_rows(Path(data.file)), start=1):
            yield OwnRow(number, *_of_visual_cot(published, data))
        return
    if data.layout == "monet":
        for number, record in enumerate(monet_rows(Path(data.file)), start=1):
            if record.auxiliary and OBSERVATION[0] in record.texts[1]:  # as the released code does
                yield OwnRow(number, *_of_monet(record, data))
        return
    for line, row, faults in checked_rows(data):
        if row is None:
            raise DataError("; ".join(faults) + ". See every fault: mirage data check " + data.file)
        yield OwnRow(line, *row)


def checked_rows(data: OwnData) -> Iterator[tuple[int, tuple[Problem, ProvidedImage | None] | None, list[str]]]:
    """Yield every line with its problem, or with all its faults."""
    seen: dict[str, int] = {}
    for row in read_lines(Path(data.file).expanduser()):
        if isinstance(row, DataError):
            yield 0, None, [str(row)]
            continue
        faults: list[str] = []
        parsed = _problem(row, data, faults)
        if parsed and parsed[0].id in seen:
            faults.append(f"{row.where}: the id {parsed[0].id!r} is on line {seen[parsed[0].id]} already")
        if parsed:
            seen.setdefault(parsed[0].id, row.line)
        yield row.line, None if faults else parsed, faults


def _problem(row: Row, data: OwnData, faults: list[str]) -> tuple[Problem, ProvidedImage | None] | None:
    """The problem of a line with its provided image; None, with all faults noted, if it has faults."""
    reader = _Reader(row, faults)
    reader.check_keys()
    question, answer = reader.text("question") or "", reader.text("answer") or ""
    options, images = reader.texts("options"), reader.images("images")
    identity = reader.text("id", required=False) or f"{NAME}-{_digest(row)}"
    split = reader.one_of("split", _SPLITS) or _split_of(identity, data)
    boxes = reader.boxes(BOXES)
    provided = _provided_image(reader, identity, images, boxes)
    if split != "test" and not any(row.values.get(key) for key in ("auxiliary_image", "auxiliary_images", BOXES)):
        reader.note(f"it is for training ({split}), so it needs auxiliary_image, the image to imagine, or boxes")
    marked = question if IMAGE_MARK in question else f"{IMAGE_MARK}\n" * len(images) + question
    if images and marked.count(IMAGE_MARK) != len(images):
        reader.note(f"the question has {marked.count(IMAGE_MARK)} times {IMAGE_MARK} for {len(images)} images")
    if options and answer:
        try:
            answer = multiple_choice.right_letter(answer, options)
            marked = multiple_choice.with_options(marked, options)
        except DataError as error:
            reader.note(str(error))
    if faults:
        return None
    problem = Problem(
        id=identity,
        benchmark=NAME,
        split=split,
        group=reader.text("group", required=False) or GROUPS[0],
        question=marked,
        images=images,
        answer=answer,
        facts={**({"options": options} if options else {}), **({BOXES: boxes} if boxes else {})},
    )
    return problem, provided


def _of_visual_cot(row: VisualCotRow, data: OwnData) -> tuple[Problem, ProvidedImage]:
    """The problem of a row of Visual-CoT, with its first box cut out as the image to imagine."""
    answer = _answer_in(row.answer)
    identity = f"{NAME}-{hashlib.sha256(repr((row.question, answer, row.boxes)).encode() + row.image).hexdigest()[:16]}"
    problem = Problem(
        id=identity,
        benchmark=NAME,
        split=_split_of(identity, data),
        group=GROUPS[0],
        question=f"{IMAGE_MARK}\n{row.question}",
        images=(row.image,),
        answer=answer,
        facts={BOXES: [list(box) for box in row.boxes]},
    )
    image = cropped(row.image, (row.boxes[0],))
    text = f"\\boxed{{{answer}}}"
    return problem, ProvidedImage(problem_id=identity, image=image, style="crop", text_before="", text_after=text)


def _of_monet(row: MonetRow, data: OwnData) -> tuple[Problem, ProvidedImage]:
    """The problem of a record of Monet-SFT-125K, its answer what the chain's box holds, with all its images."""
    before, after = row.texts
    images = row.auxiliary
    digest = hashlib.sha256(repr((row.question, before, after)).encode() + b"".join((*row.images, *images)))
    identity = f"{NAME}-{digest.hexdigest()[:16]}"
    problem = Problem(
        id=identity,
        benchmark=NAME,
        split=_split_of(identity, data),
        group=row.dataset or GROUPS[0],
        question=f"{IMAGE_MARK}\n" * len(row.images) + row.question,
        images=row.images,
        answer=(boxed(after) or "").strip(),
    )
    return problem, ProvidedImage(
        problem_id=identity, image=images[0], style=MONET, text_before=before, text_after=after, frames=images
    )


def _answer_in(text: str) -> str:
    """The answer of LVR's turns, which stands in tags behind a mark for each box; other answers as they are."""
    tagged = _TAGGED_ANSWER.search(text)
    return (tagged.group(1) if tagged else text.replace("<lvr>", "")).strip()


def _provided_image(
    reader: _Reader, identity: str, images: Sequence[bytes], boxes: Sequence[Sequence[float]]
) -> ProvidedImage | None:
    before, after = reader.text("text_before", required=False), reader.text("text_after", required=False)
    if (before is None) != (after is None):
        reader.note("text_before and text_after go together: give both, or none")
    frames = reader.images("auxiliary_images", required=False)
    image = reader.image("auxiliary_image") or (frames[-1] if frames else None)
    style = "own"
    if image is None and boxes and images:
        image, style = cropped(images[0], (checked_box(boxes[0], BOXES),)), "crop"
    if image is None:
        return None
    return ProvidedImage(
        problem_id=identity, image=image, style=style, text_before=before, text_after=after, frames=frames
    )


def score(problem: Problem, output: str, rule: str = RULE) -> Score:
    """Compare the chosen letter if there are options; else the text that is read, without case, spaces and dress."""
    check_rule(rule, (RULE, multiple_choice.OPTION_LETTER), NAME)
    if "options" in problem.facts:
        return replace(multiple_choice.score(problem, output), rule=RULE)
    texts, wanted = read_texts(output), text_key(problem.answer)
    if is_figure(problem.answer):
        texts += figures_of(texts)
    right = next((text for text in texts if text_key(text) == wanted), None)
    parsed = right if right is not None else next(iter(texts), None)
    return Score(problem_id=problem.id, correct=right is not None, parsed=parsed, rule=RULE)


BENCHMARK = Benchmark(NAME, GROUPS, (RULE,), load, score, multiple_choice.prompt)


def _digest(row: Row) -> str:
    content = repr(sorted((key, str(value)) for key, value in row.values.items()))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _split_of(identity: str, data: OwnData) -> Split:
    share = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big") / 2**64
    if share < data.test_share:
        return "test"
    return "validation" if share < data.test_share + data.validation_share else "train"


class _Reader:
    """Reads the values of a line and notes every fault, so that one check reports all of them."""

    def __init__(self, row: Row, faults: list[str]) -> None:
        self._row, self._faults = row, faults

    def note(self, fault: str) -> None:
        """Note a fault with the line's location."""
        self._faults.append(f"{self._row.where}: {fault}")

    def check_keys(self) -> None:
        """Note unknown keys, which are spelling mistakes."""
        for key in sorted(set(self._row.values) - set(KEYS)):
            self.note(f"unknown key {key!r}; known: {', '.join(KEYS)}")

    def text(self, key: str, required: bool = True) -> Any:
        """A text, not empty if required; None if it is missing or wrong."""
        value = self._row.values.get(key)
        if value is None:
            if required:
                self.note(f"{key} is missing")
        elif not isinstance(value, str) or (required and not value.strip()):
            self.note(f"{key} is {str(value)[:40]!r}, expected text")
            return None
        return plain_text(value) if isinstance(value, str) else value

    def texts(self, key: str) -> list[str]:
        """A list of texts, empty if it is missing."""
        value = self._row.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.note(f"{key} is {str(value)[:40]!r}, expected a list of texts")
            return []
        return [plain_text(item) for item in value]

    def boxes(self, key: str) -> list[list[float]]:
        """A list of boxes, empty if it is missing."""
        value = self._row.values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(box, list) for box in value):
            self.note(f"{key} is {str(value)[:40]!r}, expected a list of boxes [left, top, right, bottom]")
            return []
        try:
            return [list(checked_box(box, f"a box of {key}")) for box in value]
        except DataError as error:
            self.note(str(error))
            return []

    def one_of(self, key: str, known: Sequence[str]) -> Any:
        """One of the known values, or None if it is missing."""
        value = self._row.values.get(key)
        if value is not None and value not in known:
            self.note(f"{key} is {value!r}, expected one of {', '.join(known)}")
        return value

    def images(self, key: str, required: bool = True) -> tuple[bytes, ...]:
        """The images of a list of files, at least one if required."""
        texts = self.texts(key)
        if not texts and not required:
            return ()
        if not texts:
            self.note(f"{key} is missing: name at least one image file")
            return ()
        names = self._row.values[key]  # to the letter, unlike texts
        return tuple(image for image in (self._read(key, name) for name in names) if image is not None)

    def image(self, key: str) -> bytes | None:
        """One image, None if it is missing or cannot be read."""
        name = self.text(key, required=False)
        return None if name is None else self._read(key, self._row.values[key])

    def _read(self, key: str, name: str) -> bytes | None:
        try:
            return read_image_file(self._row, key, name)[0]
        except DataError as error:
            self._faults.append(str(error))
            return None


def example_line() -> Mapping[str, Any]:
    """A line with every key, for help texts."""
    return {
        "question": "Which exit does the ball reach? <image>",
        "images": ["ball.png"],
        "options": ["the left one", "the right one"],
        "answer": "the right one",
        "auxiliary_image": "ball-path.png",
        "text_before": "<think>I imagine the path of the ball.</think>",
        "text_after": "<think>It ends at the right.</think>\\boxed{B}",
    }
