r"""The two readings of letters of earlier versions, for scores that must stay comparable with old ones.

``option_letter`` read no bare letter, ``published_letter`` took the last "(X)" anywhere. New scores use ``letters``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mirage_core.benchmarks.answer_parsing import after_thought, boxed

_PAREN_LETTER = re.compile(r"\(([A-Za-z])\)")
_ANSWER_IS = re.compile(r"\b(?i:answer|option|choice)\b(?: is)? ?:? ?\** ?\(?([A-Z])\b(?!')")
_BARE_LETTER = re.compile(r"\W*([A-Za-z])\s*(?:[.:,)*].*)?", flags=re.DOTALL)


def option_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The box's letter, else that of the last "(X)", else that of the one option whose text is contained."""
    box = boxed(text)
    if box is not None:
        letter = letter_of(box, options)
        if letter is not None:
            return letter
    in_parentheses = _letters_in_parentheses(text, options)
    return in_parentheses[-1] if in_parentheses else _by_option_text(text, options)


def letter_of(answer: str, options: Mapping[str, str]) -> str | None:
    r"""The letter of a right answer in a data set: "B", "(b)", "B.", "B. text", ``\text{B}`` or an option's text."""
    plain = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", answer).strip()
    match = re.fullmatch(r"\(?([A-Za-z])\)?(?:\s*[.:,)].*)?", plain, flags=re.DOTALL)
    if match and match.group(1).upper() in options:
        return match.group(1).upper()
    return _by_option_text(plain, options)


def published_letter(output: str, options: Mapping[str, str]) -> str | None:
    """The box's letter, else, after the last thought, that of the last "(X)", of "the answer is X", a letter alone, or
    that of the only option whose whole text is contained."""
    box = boxed(output)
    if box is not None:
        letter = _published_letter_in(re.sub(r"\\text\w*\s*\{([^{}]*)\}", r"\1", box), options)
        if letter is not None:
            return letter
    return _published_letter_in(after_thought(output), options)


def _published_letter_in(text: str, options: Mapping[str, str]) -> str | None:
    in_parentheses = _letters_in_parentheses(text, options)
    announced = [letter for letter in _ANSWER_IS.findall(" ".join(text.split())) if letter in options]
    if in_parentheses or announced:
        return (in_parentheses or announced)[-1]
    bare = _BARE_LETTER.fullmatch(text)
    if bare and bare.group(1).upper() in options:
        return bare.group(1).upper()
    named = [letter for letter, option in options.items() if _contains_words(text, option)]
    return named[0] if len(named) == 1 else None


def _letters_in_parentheses(text: str, options: Mapping[str, str]) -> list[str]:
    return [letter.upper() for letter in _PAREN_LETTER.findall(text) if letter.upper() in options]


def _by_option_text(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the only option whose text (without its final full stop) the answer contains."""
    folded = text.casefold()
    named = [letter for letter, option in options.items() if option.casefold().rstrip(". ") in folded]
    return named[0] if len(named) == 1 else None


def _contains_words(text: str, option: str) -> bool:
    words = option.strip().rstrip(".").casefold()
    return bool(words) and re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text.casefold()) is not None
