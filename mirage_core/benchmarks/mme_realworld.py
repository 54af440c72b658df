"""MME-RealWorld-Lite: large images of real places, with four options and "the image does not feature it".

Published as ``yifanzhang114/MME-RealWorld-lite-lmms-eval``, split train, about 1,919 rows: index, bytes (base64),
question, "multi-choice options" ("(A) text"), answer, category ("Perception/Monitoring"), l2-category.
"""

from __future__ import annotations

import re
from pathlib import Path

from mirage_core.benchmarks.answer_parsing import after_thought
from mirage_core.benchmarks.benchmark import OFFICIAL, Benchmark, check_rule
from mirage_core.benchmarks.io.faults import converted
from mirage_core.benchmarks.io.hub_rows import PublishedRow, published_rows
from mirage_core.benchmarks.io.jsonl import LARGE_IMAGE_PIXELS
from mirage_core.benchmarks.multiple_choice import LETTER_RULES, LETTERS, letter_score, prompt, published_problem
from mirage_core.benchmarks.multiple_choice import score as score_letter
from mirage_core.benchmarks.official import letters as official
from mirage_core.errors import DataError
from mirage_core.types import Problem, Score, Split

NAME = "mme-realworld-lite"
SOURCE, PUBLISHED_SPLIT = "yifanzhang114/MME-RealWorld-lite-lmms-eval", "train"
TASKS = ("perception", "reasoning")
AREAS = ("monitoring", "autonomous-driving", "ocr-with-complex-context", "diagram-and-table", "remote-sensing")
GROUPS = tuple(f"{task}-{area}" for task in TASKS for area in AREAS)
OFFICIAL_RULE, EARLIER_RULE = "mme-realworld-official", "mme-realworld"
RULES = (*LETTER_RULES, OFFICIAL_RULE, EARLIER_RULE)
ENDING = (
    "\nSelect the best answer to the above multiple-choice question based on the image. Respond with only the letter "
    "(A, B, C, D, or E) of the correct option.\nThe best answer is: "
)
_OPTION = re.compile(r"\s*[(（]?([A-Z])[)）.:]\s*(.*)", flags=re.DOTALL)
# ``mme-realworld`` removes these from an answer; the authors' list lacks two commas (official/letters.py).
_PREFIXES = (
    "The best answer is", "The correct answer is", "The answer is", "The answer", "The best option is",
    "The correct option is", "Best answer:", "Best option:",
)  # fmt: skip


def load(file: str | Path, split: Split = "test") -> list[Problem]:
    """Every row of a file, folder or hub id; DataError names the row."""
    return [*converted(published_rows(str(file), split=PUBLISHED_SPLIT), lambda row: _problem(row, split))]


def _problem(row: PublishedRow, split: Split) -> Problem:
    options, group = [_option(row, text) for text in row.texts("multi-choice options")], _group(row)
    lines = "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, options, strict=False))
    return published_problem(
        f"{NAME}-{row.values.get('index', row.number - 1)}",
        NAME,
        group,
        split=split,
        body=f"{row.text('question').strip()} The choices are listed below:\n{lines}",
        ending=ENDING,
        images=(row.image(row.value("bytes"), "bytes", LARGE_IMAGE_PIXELS),),
        options=options,
        answer=row.text("answer"),
        where=row.where,
        facts={"type": row.text("l2-category"), "task": group.partition("-")[0]},
    )


def _option(row: PublishedRow, text: str) -> str:
    match = _OPTION.fullmatch(text)
    if match is None:
        raise DataError(f"{row.where}: the option {text[:60]!r} has no letter, expected '(A) text'")
    return match.group(2).strip()


def _group(row: PublishedRow) -> str:
    category = row.text("category")
    task = "perception" if "perception" in category.casefold() else "reasoning"
    group = f"{task}-{re.sub(r'[ _]+', '-', category.rpartition('/')[2].strip().casefold())}"
    if group not in GROUPS:
        raise DataError(f"{row.where}: category {category!r} names none of the areas {', '.join(AREAS)}")
    return group


def score(problem: Problem, output: str, rule: str = RULES[0]) -> Score:
    """Score by the letter, by the official rule, or by ``mme-realworld``, which is the official one without its faults:
    thoughts struck out, every opening removed, an empty answer unparsed."""
    check_rule(rule, (*RULES, OFFICIAL), NAME)
    if rule in (OFFICIAL, OFFICIAL_RULE):
        return letter_score(problem, official.mme_realworld(output), OFFICIAL_RULE)
    if rule == EARLIER_RULE:
        return letter_score(problem, _first_capital(after_thought(output)), EARLIER_RULE)
    return score_letter(problem, output, rule)


def _first_capital(text: str) -> str | None:
    for prefix in _PREFIXES:
        text = text.replace(prefix, "")
    capital = re.search("[A-E]", text)
    containing = [letter for letter in "ABCDE" if text.strip().lower() in f"({letter.lower()})"]
    return capital.group() if capital else containing[0] if containing and text.strip() else None


BENCHMARK = Benchmark(NAME, GROUPS, RULES, load, score, prompt, source=SOURCE, official=OFFICIAL_RULE)
