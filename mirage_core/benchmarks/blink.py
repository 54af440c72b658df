"""BLINK's own rows: multi-view reasoning, and jigsaw in BLINK's words (benchmarks/jigsaw.py trains on cut images).

Published as ``BLINK-Benchmark/BLINK``, configurations Multi-view_Reasoning (133) and Jigsaw (150), split val (answers
of test are hidden): idx, question, prompt (with the options), choices, answer "(A)", image_1 to image_4, some null.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mirage_core.benchmarks.benchmark import Benchmark
from mirage_core.benchmarks.io.faults import converted
from mirage_core.benchmarks.io.hub_rows import PublishedRow, published_rows
from mirage_core.benchmarks.multiple_choice import (
    LETTER_RULES,
    prompt,
    published_options,
    published_problem,
    scorer,
    with_options,
)
from mirage_core.benchmarks.official import letters as official
from mirage_core.errors import DataError
from mirage_core.types import Problem, Split

SOURCE, PUBLISHED_SPLIT = "BLINK-Benchmark/BLINK", "val"
CONFIGS = {"blink-multi-view": "Multi-view_Reasoning", "blink-jigsaw": "Jigsaw"}
_MAX_IMAGES = 4
OFFICIAL_RULE = "blink-official"


def load(name: str, file: str | Path, split: Split = "test") -> list[Problem]:
    """The rows of one part of BLINK; DataError names a row that is invalid or whose answer is hidden."""
    rows = published_rows(str(file), config=CONFIGS[name], split=PUBLISHED_SPLIT)
    return [*converted(rows, lambda row: _problem(row, name, split))]


def _problem(row: PublishedRow, name: str, split: Split) -> Problem:
    columns = [f"image_{at}" for at in range(1, _MAX_IMAGES + 1)]
    images = tuple(row.image(row.values[at], at) for at in columns if row.values.get(at) is not None)
    options, answer = row.texts("choices"), row.text("answer")
    if row.values.get("sub_task", CONFIGS[name]) != CONFIGS[name]:
        raise DataError(f"{row.where}: it is of {row.values['sub_task']!r}, expected {CONFIGS[name]!r}: name its files")
    if not images:
        raise DataError(f"{row.where}: it has no image in image_1 to image_{_MAX_IMAGES}")
    if answer == "hidden":
        raise DataError(f"{row.where}: the answer is hidden; BLINK publishes answers of the split val only")
    if "prompt" in row.values:
        body = row.text("prompt")
    else:
        body = with_options(row.text("question"), options)
    return published_problem(
        f"{name}-{row.text('idx') if 'idx' in row.values else row.number - 1}",
        name,
        name.removeprefix("blink-"),
        split=split,
        body=body.replace("<image>", "").strip(),
        ending="",
        images=images,
        options=options,
        answer=answer,
        where=row.where,
        facts={},
    )


def undecided(problem: Problem, output: str) -> bool:
    """Whether BLINK's authors ask a judge model about an output."""
    return official.blink(output, published_options(problem)) is None


BENCHMARKS = tuple(
    Benchmark(
        name,
        (name.removeprefix("blink-"),),
        (*LETTER_RULES, OFFICIAL_RULE),
        partial(load, name),
        scorer(OFFICIAL_RULE, official.blink),
        prompt,
        source=SOURCE,
        official=OFFICIAL_RULE,
        undecided=undecided,
    )
    for name in CONFIGS
)
