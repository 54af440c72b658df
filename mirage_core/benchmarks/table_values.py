"""When two short answers about a table mean the same: the rules of WikiTableQuestions and of FinTabNetQA.

The first compare sets of values (numbers, dates, texts) after normalising their spelling, as the evaluator of
WikiTableQuestions does; the second compare single figures with their units. TableVQA-Bench scores with both.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass

_QUOTES = str.maketrans({**dict.fromkeys("‘’´`", "'"), **dict.fromkeys("“”", '"'), **dict.fromkeys("‐‑‒–—−", "-")})
_NEAR = 1e-6
_UNITS = (
    "dollar", "gallons", "square feet", "shares", "mbtu", "mbpd", "mbbls", "mmbtu", "unit", "gwh", "year", "mmcf",
    "mile", "mboe",
)  # fmt: skip
_SCALES = ((r" ?\bthousand\b", "e3"), (r" ?\bmillion\b", "e6"), (r" ?\bbillion\b", "e9"), (r" ?%", "e-2"))


def normalized(text: str) -> str:
    """A text without accents, footnote marks, closing parentheses, outer quotes and final full stop; small letters."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c) != "Mn")
    plain, before = plain.translate(_QUOTES).strip(), None
    while plain != before:
        before, plain = plain, _trimmed(plain).strip()
    return " ".join(plain.removesuffix(".").split()).lower()


def _trimmed(text: str) -> str:
    """The text without the one thing that its last character ends: a footnote, a parenthesis, or its outer quotes."""
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
    """What an answer says: ``kind`` number, date or text; ``exact`` tells values of one kind apart."""

    kind: str
    exact: object
    spelling: str

    def matches(self, other: Value) -> bool:
        """Whether two values mean the same: the same spelling, numbers that are near, or one date."""
        if self.spelling == other.spelling:
            return True
        if self.kind != other.kind or self.kind == "text":
            return False
        if isinstance(self.exact, int | float) and isinstance(other.exact, int | float):
            return abs(self.exact - other.exact) < _NEAR
        return self.exact == other.exact


def same_values(wanted: str, given: str) -> bool:
    """Whether two lists, divided by "|" (or "||"), hold as many different values, each wanted one among the given."""
    first, second = _values(wanted), _values(given.replace("||", "|"))
    return len(first) == len(second) and all(any(one.matches(other) for other in second) for one in first)


def _values(text: str) -> list[Value]:
    parts = [part.replace(r"\n", "\n").replace(r"\p", "|").replace("\\\\", "\\") for part in text.split("|")]
    return list({(value.kind, value.exact): value for value in map(_value, parts)}.values())


def _value(text: str) -> Value:
    spelling, number = normalized(text), _number(text)
    if number is not None:
        return Value("number", round(number) if abs(number - round(number)) < _NEAR else number, spelling)
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
    """Year, month and day of "2004-11-xx", where x stands for what is not known; None for no date."""
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


def _within(part: int | None, most: int) -> bool:
    return part is None or 1 <= part <= most


def same_figure(wanted: str, given: str) -> bool:
    """Whether two figures agree with their units; texts agree when they are spelled the same."""
    return _figures(wanted)[0] == _figures(given)[0]


def near_figure(wanted: str, given: str) -> bool:
    """Whether two figures agree with their scales (million, %), or one of them without: FinTabNetQA's relieved rule."""
    return any(one == other for one in _figures(wanted) for other in _figures(given))


def _figures(text: str) -> tuple[float | str, float | str]:
    """A figure with its scale, and without."""
    plain = re.sub(r"[$(),]", "", normalized(text))
    plain = re.sub(rf"\b({'|'.join(_UNITS)})s?\b", "", plain)
    scaled = bare = plain
    for pattern, power in _SCALES:
        scaled, bare = re.sub(pattern, power, scaled), re.sub(pattern, "", bare)
    try:
        return float(scaled), float(bare)
    except ValueError:
        return scaled, bare
