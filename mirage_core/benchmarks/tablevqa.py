"""TableVQA-Bench: questions about pictures of tables, answered in words, scored as its authors score them.

Published as ``terryoo/TableVQA-Bench``, a split a part: vwtq 750, vwtq_syn 250, vtabfact 250, fintabnetqa 250, with
qa_id, image, question, text_html_table, gt. Several right answers stand in gt divided by "|".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mirage_core.benchmarks.answers import boxed
from mirage_core.benchmarks.benchmark import Benchmark
from mirage_core.benchmarks.choices import prompt
from mirage_core.benchmarks.option_rows import answer_text
from mirage_core.benchmarks.published import PublishedRow, published_rows
from mirage_core.benchmarks.table_values import near_figure, same_figure, same_values
from mirage_core.errors import DataError, SettingsError
from mirage_core.types import Problem, Score, Split

NAME = "tablevqa"
SOURCE = "terryoo/TableVQA-Bench"
GROUPS = ("vwtq", "vwtq_syn", "vtabfact", "fintabnetqa")
RULES = ("tablevqa", "tablevqa-exact")
ENDING = "\nAnswer:"
_TRUTHS = {"1": "true", "true": "true", "0": "false", "false": "false"}
# The authors' words, with their examples; they are part of the benchmark.
_WTQ = """\
You are asked to answer questions asked on an image.
You should answer the question with a single word.
Example:\x20
Question: what was the only year mr. wu competed in the olympic games?
Answer: 2004
Question: which township in pope county, arkansas has the least amount of water area?
Answer: Freeman
If you have multiple answers, please separate them with || marks. Example: Apple||Banana||Tomato

Question: {question}"""
_TABFACT = """\
You are asked to answer whether the statement is True or False based on given image
You should only answer true or false.
Example:\x20
Statement: the milwaukee buck win 6 game in the 2010 - 11 season
Answer: True
Statement: only the top team score above the average of 8.8
Answer: False

Statement: {question}"""
_FINTABNET = """\
You are asked to answer questions asked on a image.
You should answer the question within a single word or few words.
If units can be known, the answer should include units such as $, %, million and etc.
Example:\x20
Question: What were the total financing originations for the fiscal year ended October 31, 2004?
Answer: $3,852 million
Question: What is the time period represented in the table?
Answer: October 31
Question: What was the percentage of net sales for selling, general and administrative expenses in 2006?
Answer: 34.2%
Question: {question}"""
PROMPTS = {"vwtq": _WTQ, "vwtq_syn": _WTQ, "vtabfact": _TABFACT, "fintabnetqa": _FINTABNET}


def load(file: str | Path, split: Split = "test") -> list[Problem]:
    """Every row of the parts in a folder, of one part's file (named after it), or of a hub id; DataError otherwise."""
    return [_problem(row, part, split) for part, row in _rows(Path(file).expanduser())]


def _rows(path: Path) -> Iterator[tuple[str, PublishedRow]]:
    if path.is_dir():
        files = [file for kind in ("*.parquet", "*.jsonl") for file in sorted(path.rglob(kind))]
    else:
        files = [path] if path.is_file() else []
    parts = {file: part_of(file.relative_to(path.parent).as_posix()) for file in files}
    if path.is_dir() and not any(parts.values()):
        raise DataError(f"{path} holds no parquet or JSON-lines file named after {', '.join(GROUPS)}")
    for group in GROUPS:
        if not files:
            yield from ((group, row) for row in published_rows(str(path), split=group))
        for file in (file for file, part in parts.items() if part == group):
            yield from ((group, row) for row in published_rows(str(file)))
    if path.is_file() and parts[path] is None:
        yield from ((_own_part(row), row) for row in published_rows(str(path)))


def part_of(name: str) -> str | None:
    """The part that a file's path names last, None where it names none."""
    named = re.findall("vwtq_syn|vwtq-syn|vwtq|vtabfact|fintabnetqa", name.casefold())
    return named[-1].replace("-", "_") if named else None


def _own_part(row: PublishedRow) -> str:
    """The part that a row of a mixed file says in its column ``part``."""
    part = row.values.get("part")
    if part not in GROUPS:
        raise DataError(
            f"{row.where}: which part it belongs to is not known: name the file after one of {', '.join(GROUPS)}, or "
            "give the rows a column 'part'"
        )
    return str(part)


def _problem(row: PublishedRow, part: str, split: Split) -> Problem:
    wanted = str(row.value("gt")).strip()
    if part == "vtabfact":
        wanted = _TRUTHS.get(wanted.casefold(), "")
    if not wanted:
        raise DataError(
            f"{row.where}: gt is {row.value('gt')!r}, expected {'0 or 1' if part == 'vtabfact' else 'text'}"
        )
    body = "<image>\n" + PROMPTS[part].replace("{question}", row.text("question").strip())
    return Problem(
        id=f"{NAME}-{part}-{row.values.get('qa_id', row.number - 1)}",
        benchmark=NAME,
        split=split,
        group=part,
        question=body,
        images=(row.picture(row.value("image"), "image"),),
        answer=wanted,
        facts={"official": body + ENDING, "type": part},
    )


def score(problem: Problem, output: str, rule: str = RULES[0]) -> Score:
    """By the part's own rule, on the box's text or else the whole answer (after "Answer:", where it says that).

    vwtq: the same set of values; vtabfact: names the right one of true and false, both or none is unparsed;
    fintabnetqa: the same figure with its scale or without (``tablevqa-exact``: with its scale only).
    """
    if rule not in (*RULES, "mirage", "vsp"):
        raise SettingsError(f"unknown rule {rule!r} for {NAME}; expected one of {', '.join(RULES)}")
    used = RULES[1] if rule == RULES[1] else RULES[0]
    text = read_answer(output)
    parsed = _truth(text) if problem.group == "vtabfact" else text
    if not parsed:
        return Score(problem_id=problem.id, correct=False, parsed=None, rule=used)
    return Score(problem_id=problem.id, correct=_right(problem, parsed, used), parsed=parsed, rule=used)


def read_answer(output: str) -> str:
    """What an output answers: the box's text, else the text after its last "Answer:", else all of it."""
    box = boxed(output)
    if box is not None:
        return re.sub(r"\\text\w*\s*\{([^{}]*)\}", r"\1", box).replace("\\%", "%").replace("\\$", "$").strip()
    return re.split(r"\banswer:", answer_text(output), flags=re.IGNORECASE)[-1].strip()


def _truth(text: str) -> str | None:
    named = [word for word in ("true", "false") if word in text.casefold()]
    return named[0] if len(named) == 1 else None


def _right(problem: Problem, parsed: str, rule: str) -> bool:
    if problem.group == "vtabfact":
        return parsed == problem.answer
    if problem.group == "fintabnetqa":
        return (same_figure if rule == RULES[1] else near_figure)(problem.answer, parsed)
    return same_values(problem.answer, parsed)


BENCHMARK = Benchmark(NAME, GROUPS, RULES, load, score, prompt, source=SOURCE)
