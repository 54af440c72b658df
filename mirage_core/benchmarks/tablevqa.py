"""TableVQA-Bench: questions about images of tables, answered in words, scored as its authors score them.

Published as ``terryoo/TableVQA-Bench``, a split a part: vwtq 750, vwtq_syn 250, vtabfact 250, fintabnetqa 250, with
qa_id, image, question, text_html_table, gt. "|" separates several right answers in gt.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mirage_core.benchmarks.answer_parsing import after_thought, box_or_its_begin, boxed, final_answer
from mirage_core.benchmarks.benchmark import OFFICIAL, Benchmark, check_rule
from mirage_core.benchmarks.io.faults import converted
from mirage_core.benchmarks.io.hub_rows import PublishedRow, published_rows
from mirage_core.benchmarks.multiple_choice import prompt
from mirage_core.benchmarks.reading.letters import read_letter
from mirage_core.benchmarks.reading.texts import figures_of, read_texts
from mirage_core.errors import DataError
from mirage_core.types import Problem, Score, Split

NAME = "tablevqa"
SOURCE = "terryoo/TableVQA-Bench"
GROUPS = ("vwtq", "vwtq_syn", "vtabfact", "fintabnetqa")
RULES = ("tablevqa", "tablevqa-exact", "tablevqa-official")
ENDING = "\nAnswer:"
_TRUTH_VALUES = {"1": "true", "true": "true", "0": "false", "false": "false"}
# The authors' prompts, with their examples; they are part of the benchmark.
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
_QUOTES = str.maketrans({**dict.fromkeys("‘’´`", "'"), **dict.fromkeys("“”", '"'), **dict.fromkeys("‐‑‒–—−", "-")})
_TOLERANCE = 1e-6
_LONGEST = 20_000
"""A longer answer is no value of a table."""
_BE = r"(?:\b(?:is|was|are|were|be) ?|\b)"
_NOT = r"(?:not|n't|n’t|never)(?: (?:quite|entirely|actually|really|at all))? "
_ANSWERED = r"(?:\A|\n|\b(?:answer|verdict|conclusion)\b\W{0,4}(?:is\b)?)\W{0,4}"
_TRUTHS = tuple(
    (re.compile(pattern, flags=re.IGNORECASE), word)
    for pattern, word in (
        (r"\b(?:whether|(?:say|tell|know|determine|see|sure|decide|check) if)\b[^.\n,;]{0,200}", ""),
        (rf"{_BE}{_NOT}(?:false|incorrect|wrong|refuted|contradicted)\b", "is true"),
        (rf"{_BE}{_NOT}(?:true|correct|right|accurate|supported|entailed)\b", "is false"),
        (
            r"\b(?:untrue|inaccurate|(?:is|are|was|were) (?:incorrect|wrong|unsupported)|refuted|contradicted)\b",
            "is false",
        ),
        (r"\b(?:(?:is|are|was|were) (?:correct|right|accurate)|supported|entailed)\b", "is true"),
        (rf"{_ANSWERED}yes(?=\W{{0,3}}(?:[,.!;:\n]|$))", "\ntrue"),
        (rf"{_ANSWERED}no(?=\W{{0,3}}(?:[,.!;:\n]|$))", "\nfalse"),
    )
)
"""What says true or false in other words, the negated ones first."""
_UNITS = (
    "dollar", "gallons", "square feet", "shares", "mbtu", "mbpd", "mbbls", "mmbtu", "unit", "gwh", "year", "mmcf",
    "mile", "mboe",
)  # fmt: skip
_SCALES = ((r" ?\bthousand\b", "e3"), (r" ?\bmillion\b", "e6"), (r" ?\bbillion\b", "e9"), (r" ?%", "e-2"))


def load(file: str | Path, split: Split = "test") -> list[Problem]:
    """Every row of the parts in a folder, of one part's file (named after it), or of a hub id; DataError otherwise."""
    return [*converted(_rows(Path(file).expanduser()), lambda found: _problem(found[1], found[0], split))]


def _rows(path: Path) -> Iterator[tuple[str, PublishedRow]]:
    if path.is_dir():
        files = [file for kind in ("*.parquet", "*.jsonl") for file in sorted(path.rglob(kind))]
    else:
        files = [path] if path.is_file() else []
    parts = {file: part_of_path(file.relative_to(path.parent).as_posix()) for file in files}
    if path.is_dir() and not any(parts.values()):
        raise DataError(f"{path} holds no parquet or JSON-lines file named after {', '.join(GROUPS)}")
    for group in GROUPS:
        if not files:
            yield from ((group, row) for row in published_rows(str(path), split=group))
        for file in (file for file, part in parts.items() if part == group):
            yield from ((group, row) for row in published_rows(str(file)))
    if path.is_file() and parts[path] is None:
        yield from ((_part_of_row(row), row) for row in published_rows(str(path)))


def part_of_path(name: str) -> str | None:
    """The part that a file's path names last, None if it names none."""
    named = re.findall("vwtq_syn|vwtq-syn|vwtq|vtabfact|fintabnetqa", name.casefold())
    return named[-1].replace("-", "_") if named else None


def _part_of_row(row: PublishedRow) -> str:
    """The part that a row of a mixed file names in its column ``part``."""
    part = row.values.get("part")
    if part not in GROUPS:
        raise DataError(
            f"{row.where}: its part is unknown: name the file after one of {', '.join(GROUPS)}, or give the rows a "
            "column 'part'"
        )
    return str(part)


def _problem(row: PublishedRow, part: str, split: Split) -> Problem:
    answer = str(row.value("gt")).strip()
    if part == "vtabfact":
        answer = _TRUTH_VALUES.get(answer.casefold(), "")
    if not answer:
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
        images=(row.image(row.value("image"), "image"),),
        answer=answer,
        facts={"official": body + ENDING, "type": part},
    )


def score(problem: Problem, output: str, rule: str = RULES[0]) -> Score:
    """Score by the part's own rule, on what the one reader of texts (``reading/texts.py``) reads.

    vwtq: the same set of values; vtabfact: the right one of true and false, both or none is unparsed; fintabnetqa: the
    same number with its scale or without (``tablevqa-exact``: with its scale only). ``tablevqa-official``: the box's
    text or else the whole answer (after its last "Answer:").
    """
    check_rule(rule, (*RULES, OFFICIAL), NAME)
    applied = RULES[2] if rule == OFFICIAL else rule
    texts = _official_texts(problem, output) if applied == RULES[2] else _texts(problem, output)
    right = next((text for text in texts if _is_right(problem, text, applied)), None)
    parsed = right if right is not None else next(iter(texts), None)
    return Score(problem_id=problem.id, correct=right is not None, parsed=parsed, rule=applied)


def _texts(problem: Problem, output: str) -> tuple[str, ...]:
    """What an answer can be read as; of a sentence with one figure that figure too."""
    if problem.group == "vtabfact":
        value = _stated_truth(output)
        return () if value is None else (value,)
    texts = tuple(dict.fromkeys(part for text in read_texts(output) for part in (text, _plain(text)) if part))
    return (*texts, *figures_of(texts))


def _plain(text: str) -> str:
    r"""A text without LaTeX's dress, and with its signs as they are: ``\%`` is %."""
    return re.sub(r"\\text\w*\s*\{([^{}]*)\}", r"\1", text).replace("\\%", "%").replace("\\$", "$").strip()


def _stated_truth(output: str) -> str | None:
    """Whether an answer says true or false, also as yes or no, supported or refuted; None for neither or both."""
    text = final_answer(output)[-2 * _LONGEST :]
    box = box_or_its_begin(text)
    text = text if box is None else box
    for pattern, word in _TRUTHS:
        text = pattern.sub(word, text)
    letter = read_letter(text, {"T": "true", "F": "false"})
    return {"T": "true", "F": "false"}[letter] if letter else None


def _official_texts(problem: Problem, output: str) -> tuple[str, ...]:
    text = read_answer(output)
    parsed = _truth_value(text) if problem.group == "vtabfact" else text
    return (parsed,) if parsed else ()


def read_answer(output: str) -> str:
    """The answer in an output: the box's text, else the text after its last "Answer:", else all of it."""
    box = boxed(output)
    if box is not None:
        return _plain(box)
    return re.split(r"\banswer:", after_thought(output), flags=re.IGNORECASE)[-1].strip()


def _truth_value(text: str) -> str | None:
    named = [word for word in ("true", "false") if word in text.casefold()]
    return named[0] if len(named) == 1 else None


def _is_right(problem: Problem, parsed: str, rule: str) -> bool:
    if len(parsed) > _LONGEST:
        return False
    if problem.group == "vtabfact":
        return parsed == problem.answer
    if problem.group == "fintabnetqa":
        return (same_number if rule == RULES[1] else same_number_relaxed)(problem.answer, parsed)
    return same_values(problem.answer, parsed)


BENCHMARK = Benchmark(NAME, GROUPS, RULES, load, score, prompt, source=SOURCE, official=RULES[2])


def normalized(text: str) -> str:
    """A text in lower case, without accents, footnote marks, closing parentheses, outer quotes and final full stop."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c) != "Mn")
    plain, before = plain.translate(_QUOTES).strip(), None
    while plain != before:
        before, plain = plain, _trimmed(plain).strip()
    return " ".join(plain.removesuffix(".").split()).lower()


def _trimmed(text: str) -> str:
    """The text without what its last character ends: a footnote mark, a parenthesis, or its outer quotes."""
    if text.endswith(tuple("•♦†‡*#+")):
        return text[:-1]
    if text.endswith("]"):
        opened = [at for at in range(text.rfind("]", 0, -1) + 1, len(text)) if text[at] == "["]
        start = next((at for at in opened if at > 0 or text[1:-1].isdecimal()), len(text))
        return text[:start]
    if text.endswith(")"):
        start = text.find(" (", text.rfind(")", 0, -1) + 1)
        return text if start < 0 else text[:start]
    quoted = len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1]
    return text[1:-1] if quoted else text


@dataclass(frozen=True, slots=True)
class Value:
    """A parsed answer: ``kind`` is number, date or text; ``exact`` distinguishes values of one kind."""

    kind: str
    exact: object
    spelling: str

    def matches(self, other: Value) -> bool:
        """Whether two values are equal: the same spelling, numbers within 1e-6, or the same date."""
        if self.spelling == other.spelling:
            return True
        if self.kind != other.kind or self.kind == "text":
            return False
        if isinstance(self.exact, int | float) and isinstance(other.exact, int | float):
            return abs(self.exact - other.exact) < _TOLERANCE
        return self.exact == other.exact


def same_values(expected: str, answer: str) -> bool:
    """Whether two lists, separated by "|" (or "||"), have as many different values and all expected ones match."""
    first, second = _values(expected), _values(answer.replace("||", "|"))
    return len(first) == len(second) and all(any(value.matches(other) for other in second) for value in first)


def _values(text: str) -> list[Value]:
    parts = [part.replace(r"\n", "\n").replace(r"\p", "|").replace("\\\\", "\\") for part in text.split("|")]
    return list({(value.kind, value.exact): value for value in map(_value, parts)}.values())


def _value(text: str) -> Value:
    spelling, number = normalized(text), _number(text)
    if number is not None:
        return Value("number", round(number) if abs(number - round(number)) < _TOLERANCE else number, spelling)
    date = _date(text)
    if date is not None and date[1] is date[2] is None and date[0] is not None:
        return Value("number", date[0], spelling)
    return Value("date", date, spelling) if date is not None else Value("text", spelling, spelling)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _date(text: str) -> tuple[int | None, int | None, int | None] | None:
    """Year, month and day of "2004-11-xx", where x marks an unknown part; None if it is not a date."""
    parts = text.lower().split("-")
    if len(parts) != 3:
        return None
    unknown = (("xx", "xxxx"), ("xx",), ("xx",))
    try:
        year, month, day = (None if part in words else int(part) for part, words in zip(parts, unknown, strict=True))
    except ValueError:
        return None
    if year is month is day is None or not _within(month, 12) or not _within(day, 31):
        return None
    return year, month, day


def _within(part: int | None, maximum: int) -> bool:
    return part is None or 1 <= part <= maximum


def same_number(expected: str, answer: str) -> bool:
    """Whether two numbers agree with their scales; texts agree if they are spelled the same."""
    return _scaled_and_bare(expected)[0] == _scaled_and_bare(answer)[0]


def same_number_relaxed(expected: str, answer: str) -> bool:
    """Whether two numbers agree with or without their scales (million, %): FinTabNetQA's relaxed rule."""
    return any(first == second for first in _scaled_and_bare(expected) for second in _scaled_and_bare(answer))


def _scaled_and_bare(text: str) -> tuple[float | str, float | str]:
    """A number with its scale, and without."""
    plain = re.sub(r"[$(),]", "", normalized(text))
    plain = re.sub(rf"\b({'|'.join(_UNITS)})s?\b", "", plain)
    scaled = bare = plain
    for pattern, power in _SCALES:
        scaled, bare = re.sub(pattern, power, scaled), re.sub(pattern, "", bare)
    try:
        return float(scaled), float(bare)
    except ValueError:
        return scaled, bare
