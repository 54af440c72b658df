"""HR-Bench: photographs of 4K and 8K, every question asked in four rotations of its options.

Published as ``DreamMr/HR-Bench``, splits hrbench_4k and hrbench_8k, 200 questions in 4 rotations each: index,
question, A to D, answer, category (single, cross), cycle_category, image in base64. The score is the mean over the
rotations.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from functools import partial
from pathlib import Path

from mirage_core.benchmarks.benchmark import Benchmark, Orders
from mirage_core.benchmarks.io.hub_rows import PublishedRow, published_rows
from mirage_core.benchmarks.io.jsonl import LARGE_PICTURE_PIXELS
from mirage_core.benchmarks.multiple_choice import LETTERS
from mirage_core.benchmarks.option_rows import RULE, choice_problem, prompt, score
from mirage_core.errors import DataError
from mirage_core.types import Problem, Split

SOURCE, CONFIG = "DreamMr/HR-Bench", "hrbench_version_split"
GROUPS = ("single", "cross")
CYCLES = 4
ENDING = "\nAnswer the option letter directly."
ORDERS = Orders("cyclic", CYCLES, "mean over the four rotations of the options", per_row=False)


def load(size: str, file: str | Path, split: Split = "test") -> list[Problem]:
    """Every rotation of every question of a size ("4k"), in the file's order; DataError names the row.

    The rotations of a question share one picture in memory.
    """
    published = size if Path(file).expanduser().is_dir() else f"hrbench_{size}"
    pictures: dict[str, bytes] = {}
    cycles: defaultdict[str, list[str]] = defaultdict(list)
    problems = []
    for row in published_rows(str(file), config=CONFIG, split=published):
        problem = _problem(row, f"hr-bench-{size}", split, _picture(row, pictures), cycles)
        problems.append(problem)
    return problems


def _picture(row: PublishedRow, known: dict[str, bytes]) -> bytes:
    """The row's picture, decoded once however many rows have it."""
    value = row.value("image")
    if not isinstance(value, str):
        return row.picture(value, "image", LARGE_PICTURE_PIXELS)
    key = hashlib.sha256(value.encode()).hexdigest()
    if key not in known:
        known[key] = row.picture(value, "image", LARGE_PICTURE_PIXELS)
    return known[key]


def _problem(
    row: PublishedRow, name: str, split: Split, picture: bytes, cycles: defaultdict[str, list[str]]
) -> Problem:
    question, group, cycle = row.text("question").strip(), row.text("category"), str(row.value("cycle_category"))
    options = [str(row.values[letter]) for letter in LETTERS[:10] if row.values.get(letter) is not None]
    if group not in GROUPS:
        raise DataError(f"{row.where}: category {group!r} is none of {', '.join(GROUPS)}")
    told = repr((question, sorted(options), hashlib.sha256(picture).hexdigest()))
    asked = hashlib.sha256(told.encode()).hexdigest()[:16]
    if cycle in cycles[asked] or len(cycles[asked]) == CYCLES:
        raise DataError(
            f"{row.where}: the question {question[:60]!r} stands in cycle_category {cycle!r} already, or in more than "
            f"{CYCLES} rotations; each rotation is one row"
        )
    cycles[asked].append(cycle)
    lines = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))
    return choice_problem(
        f"{name}-{asked}-{len(cycles[asked]) - 1}",
        name,
        group,
        split=split,
        body=question + lines,
        ending=ENDING,
        images=(picture,),
        options=options,
        answer=row.text("answer"),
        where=row.where,
        facts={"type": group, "cycle": cycle},
    )


BENCHMARKS = tuple(
    Benchmark(f"hr-bench-{size}", GROUPS, (RULE,), partial(load, size), score, prompt, ORDERS, SOURCE)
    for size in ("4k", "8k")
)
