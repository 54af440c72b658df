r"""Reads answers out of a model's text: the last ``\boxed{...}``, and option letters under two rules.

An answer that cannot be read is None, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_BOX = "\\boxed{"
_PAREN_LETTER = re.compile(r"\(([A-Za-z])\)")
_ANSWER_IS = re.compile(r"\b(?i:answer|option|choice)\b(?:\s+is)?\s*:?\s*\**\s*\(?([A-Z])\b(?!')")
_BARE_LETTER = re.compile(r"\W*([A-Za-z])\s*(?:[.:,)*].*)?", flags=re.DOTALL)


def boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}`` (braces may nest), None if there is none."""
    at = text.rfind(_BOX)
    while at >= 0:
        content = _braced(text, at + len(_BOX))
        if content is not None:
            return content.strip()
        at = text.rfind(_BOX, 0, at)
    return None


def _braced(text: str, begin: int) -> str | None:
    """The text from ``begin`` to its closing brace, None if it is never closed."""
    depth = 1
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin:at]
    return None


def normalized_text(text: str) -> str:
    """A text in lower case, without extra spaces and final full stop, for comparison."""
    return " ".join(text.casefold().split()).rstrip(". ")


def after_thought(output: str) -> str:
    """The output after its last thought."""
    return output.rpartition("</think>")[2].strip()


def option_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The chosen option's letter: the box's, else the last "(X)", else that of the one option whose text is contained.

    ``options`` maps upper-case letters to texts. Two different option texts and no letter are not an answer.
    """
    box = boxed(text)
    if box is not None:
        letter = letter_of(box, options)
        if letter is not None:
            return letter
    in_parentheses = _letters_in_parentheses(text, options)
    return in_parentheses[-1] if in_parentheses else _by_option_text(text, options)


def letter_of(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of a boxed answer: "B", "(b)", "B.", "B. text", "\\text{B}" or an option's text."""
    plain = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", answer).strip()
    match = re.fullmatch(r"\(?([A-Za-z])\)?(?:\s*[.:,)].*)?", plain, flags=re.DOTALL)
    if match and match.group(1).upper() in options:
        return match.group(1).upper()
    return _by_option_text(plain, options)


def _letters_in_parentheses(text: str, options: Mapping[str, str]) -> list[str]:
    return [letter.upper() for letter in _PAREN_LETTER.findall(text) if letter.upper() in options]


def _by_option_text(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the only option whose text (without its final full stop) the answer contains."""
    folded = text.casefold()
    named = [letter for letter, option in options.items() if option.casefold().rstrip(". ") in folded]
    return named[0] if len(named) == 1 else None


def published_letter(output: str, options: Mapping[str, str]) -> str | None:
    """The chosen letter as published prompts ask for it (a bare letter counts); None if the text names none or several.

    The box's, else, after the last thought: the last "(X)", else that of "the answer is X", else a letter alone, else
    that of the only option whose whole text is contained.
    """
    box = boxed(output)
    if box is not None:
        letter = _published_letter_in(re.sub(r"\\text\w*\s*\{([^{}]*)\}", r"\1", box), options)
        if letter is not None:
            return letter
    return _published_letter_in(after_thought(output), options)


def _published_letter_in(text: str, options: Mapping[str, str]) -> str | None:
    in_parentheses = _letters_in_parentheses(text, options)
    announced = [letter for letter in _ANSWER_IS.findall(text) if letter in options]
    if in_parentheses or announced:
        return (in_parentheses or announced)[-1]
    bare = _BARE_LETTER.fullmatch(text)
    if bare and bare.group(1).upper() in options:
        return bare.group(1).upper()
    named = [letter for letter, option in options.items() if _contains_words(text, option)]
    return named[0] if len(named) == 1 else None


def _contains_words(text: str, option: str) -> bool:
    words = option.strip().rstrip(".").casefold()
    return bool(words) and re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text.casefold()) is not None
