"""Reading an answer out of a model's text; what cannot be read is None, never a guess."""

from __future__ import annotations

import re
from collections.abc import Mapping

_BOX = "\\boxed{"


def boxed(text: str) -> str | None:
    r"""What stands in the last complete ``\boxed{...}`` (braces may nest), None when there is none."""
    at = text.rfind(_BOX)
    while at >= 0:
        inside = _braced(text, at + len(_BOX))
        if inside is not None:
            return inside.strip()
        at = text.rfind(_BOX, 0, at)
    return None


def _braced(text: str, begin: int) -> str | None:
    """The text from ``begin`` to the brace that closes it, None when it is never closed."""
    depth = 1
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin:at]
    return None


def option_letter(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the chosen option: the box's, else the last "(X)", else the one option whose own text stands there.

    ``options`` maps upper-case letters to texts. Two different option texts and no letter are not an answer.
    """
    box = boxed(text)
    if box is not None:
        letter = letter_of(box, options)
        if letter is not None:
            return letter
    marked = [found for found in re.findall(r"\(([A-Za-z])\)", text) if found.upper() in options]
    if marked:
        return marked[-1].upper()
    return _by_option_text(text, options)


def letter_of(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of a boxed answer: "B", "(b)", "B.", "B. text", "\\text{B}" or an option's text."""
    plain = re.sub(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", answer).strip()
    match = re.fullmatch(r"\(?([A-Za-z])\)?(?:\s*[.:,)].*)?", plain, flags=re.DOTALL)
    if match and match.group(1).upper() in options:
        return match.group(1).upper()
    return _by_option_text(plain, options)


def _by_option_text(text: str, options: Mapping[str, str]) -> str | None:
    """The only option whose text (without its final full stop) stands in the answer."""
    folded = text.casefold()
    named = [letter for letter, option in options.items() if option.casefold().rstrip(". ") in folded]
    return named[0] if len(named) == 1 else None
