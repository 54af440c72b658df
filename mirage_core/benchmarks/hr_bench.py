"""HR-Bench: photographs of 4K and 8K, every question asked in four rotations of its options.

Published as ``DreamMr/HR-Bench``, splits hrbench_4k and hrbench_8k, 200 questions in 4 rotations each: index,
question, A to D, answer, category (single, cross), cycle_category, image in base64. The score is the mean over the
rotations.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mirage_core.benchmarks.benchmark import Benchmark, OptionOrders
from mirage_core.benchmarks.io.faults import converted
from mirage_core.benchmarks.io.hub_rows import PublishedRow, published_rows
from mirage_core.benchmarks.io.jsonl import LARGE_IMAGE_PIXELS
from mirage_core.benchmarks.multiple_choice import (
    LETTER_RULES,
    LETTERS,
    prompt,
    published_options,
    published_problem,
    scorer,
)
from mirage_core.benchmarks.official import letters as official
from mirage_core.errors import DataError
from mirage_core.types import Problem, Split

SOURCE, CONFIG = "DreamMr/HR-Bench", "hrbench_version_split"
GROUPS = ("single", "cross")
CYCLES = 4
OFFICIAL_RULE = "hr-bench-official"
ENDING = "\nAnswer the option letter directly."
ORDERS = OptionOrders("cyclic", CYCLES, per_row=False)


def load(size: str, file: str | Path, split: Split = "test") -> list[Problem]:
    """Every rotation of every question of a size ("4k"), in the file's order; DataError names the row.

    The rotations of a question share one image in memory.
    """
    published = size if Path(file).expanduser().is_dir() else f"hrbench_{size}"
    images: dict[str, bytes] = {}
    cycles: defaultdict[str, list[str]] = defaultdict(list)
    rows = published_rows(str(file), config=CONFIG, split=published)
    return [*converted(rows, lambda row: _problem(row, f"hr-bench-{size}", split, _image(row, images), cycles))]


def _image(row: PublishedRow, cache: dict[str, bytes]) -> bytes:
    """The row's image, decoded once for all rows that have it."""
    value = row.value("image")
    if not isinstance(value, str):
        return row.image(value, "image", LARGE_IMAGE_PIXELS)
    key = hashlib.sha256(value.encode()).hexdigest()
    if key not in cache:
        cache[key] = row.image(value, "image", LARGE_IMAGE_PIXELS)
    return cache[key]


def _problem(row: PublishedRow, name: str, split: Split, image: bytes, cycles: defaultdict[str, list[str]]) -> Problem:
    question, group, cycle = row.text("question").strip(), row.text("category"), str(row.value("cycle_category"))
    options = [str(row.values[letter]) for letter in LETTERS[:10] if row.values.get(letter) is not None]
    if group not in GROUPS:
        raise DataError(f"{row.where}: category {group!r} is none of {', '.join(GROUPS)}")
    content = repr((question, sorted(options), hashlib.sha256(image).hexdigest()))
    question_id = hashlib.sha256(content.encode()).hexdigest()[:16]
    if cycle in cycles[question_id] or len(cycles[question_id]) == CYCLES:
        raise DataError(
            f"{row.where}: the question {question[:60]!r} has cycle_category {cycle!r} already, or more than "
            f"{CYCLES} rotations; each rotation is one row"
        )
    cycles[question_id].append(cycle)
    lines = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))
    return published_problem(
        f"{name}-{question_id}-{len(cycles[question_id]) - 1}",
        name,
        group,
        split=split,
        body=question + lines,
        ending=ENDING,
        images=(image,),
        options=options,
        answer=row.text("answer"),
        where=row.where,
        facts={"type": group, "cycle": cycle},
    )


def _decided_letter(output: str, options: Mapping[str, str]) -> str | None:
    """The letter on which HR-Bench's rules decide without a judge model; a refusal chooses none."""
    letter = official.hr_bench(output, options)
    return None if letter == official.REFUSED else letter


def _undecided(problem: Problem, output: str) -> bool:
    return official.hr_bench(output, published_options(problem)) is None


BENCHMARKS = tuple(
    Benchmark(
        f"hr-bench-{size}",
        GROUPS,
        (*LETTER_RULES, OFFICIAL_RULE),
        partial(load, size),
        scorer(OFFICIAL_RULE, _decided_letter),
        prompt,
        ORDERS,
        SOURCE,
        OFFICIAL_RULE,
        undecided=_undecided,
    )
    for size in ("4k", "8k")
)
