"""The one reader of moves: up, down, left and right as letters, words or arrows, in any case and with any separators.

A text counts only if all of it is moves: "Unreachable", "2R, D" and "go home" name none, although letters of moves
stand in them. "Down (D), Right (R)" is two moves: a letter, word or arrow in parentheses after its own move repeats it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mirage_core.benchmarks.answer_parsing import box_or_its_begin, final_answer, nfc, without_dress

_WORDS = {
    "U": "up upward upwards north oben hoch aufwärts rauf haut arriba cima su вверх 上 위 위로 ↑ ⬆ ⇧ ⇑ 🔼",
    "D": "down downward downwards south unten runter abwärts bas abajo baixo giù вниз 下 아래 아래로 ↓ ⬇ ⇩ ⇓ 🔽",
    "L": "left leftward leftwards west links gauche izquierda esquerda sinistra влево 左 왼쪽 왼쪽으로 ← ⬅ ⇦ ⇐ ◀",
    "R": "right rightward rightwards east rechts droite derecha direita destra вправо 右 오른쪽 오른쪽으로 → ➡ ⇨ ⇒ ▶",
}
MOVE_OF = {word: move for move, words in _WORDS.items() for word in words.split()}
_ARROWS = "↑⬆⇧⇑🔼↓⬇⇩⇓🔽←⬅⇦⇐◀→➡⇨⇒▶"
_LATEX = re.compile(r"\\(?:(?:long)?(?:right|left|up|down)arrow|to|(?:Right|Left|Up|Down)arrow|rightarrow)(?![a-z])")
_LATEX_ARROWS = {"right": "→", "left": "←", "up": "↑", "down": "↓", "to": "→"}
_FILLER = frozenset(
    [
        "move",
        "moves",
        "moving",
        "go",
        "then",
        "and",
        "next",
        "step",
        "steps",
        "finally",
        "first",
        "lastly",
        "one",
        "cell",
        "und",
        "dann",
        "puis",
        "et",
        "luego",
        "y",
        "poi",
        "e",
        "depois",
    ]
)
_TOKEN = re.compile(
    r"(?P<repeat>\(\s?(?P<again>[^()\s]{1,12})\s?\))|(?P<number>\d{1,3}[.):](?:\s|(?=[^\W\d])))|(?P<word>[^\W\d_]+)|(?P<other>.)",
    re.DOTALL,
)
_WRITTEN_TOGETHER = re.compile(r"[上下左右向往朝走再然后後へにと]+")
"""Moves of a script without spaces, with its words for "to", "go" and "then"."""
_NO_MOVES = re.compile(r"\b(?:[Dd]ull|[Ll]ull|[Dd]ud|[Ll]ulu|Dr)\b")
"""Words that happen to be made of the letters of moves; DULL in capitals is four moves."""
_SEPARATORS = frozenset(" \t\n,;:|/\\.-–—>=+&~·•、，。；()[]{}<'\"*`_#!→")
_HEADING = re.compile(
    r"(?:\b(?:final |full |my |the |proposed |complete |shortest |correct )?(?:action plan|action sequence|plan"
    r"|moves?|path|route|solution"
    r"|sequence|steps|directions|answer|actions?)\b[\"'*)]{0,3}(?:\s(?:is|are|will be|would be"
    r"|should be))?\s?[:=]|\b(?:answer|plan|path"
    r"|solution|sequence|route)\b[^.\n:]{0,30}?\b(?:is|are)\b:?|答案(?:是|为)?[:：]?|路径(?:是|为)?[:：]?|####)",
    flags=re.IGNORECASE,
)


def read_moves(output: str) -> str | None:
    """The moves U, D, L, R of an answer, None if it names none.

    Those of the last box, which need not be closed at the end of the answer; without a box, those after the last
    heading ("Action plan:", "The answer is"), else the answer itself or its last line, if it is nothing but moves.
    """
    text = nfc(final_answer(output))
    box = box_or_its_begin(text)
    if box is not None:
        return moves_in(box)
    return _announced(text) or moves_in(text) or moves_in(text.rpartition("\n")[2])


def _announced(text: str) -> str | None:
    """The moves after the last heading that has any: on its line or, if nothing else is there, on the next."""
    ends = [heading.end() for heading in _HEADING.finditer(text)]
    for end in reversed(ends[-_MOST_HEADINGS:]):
        line = text[end : end + _LONGEST].lstrip(" \n*_`\"':").partition("\n")[0]
        moves = moves_in(line) or moves_in(re.split(r"\.\s|\.$|[(;!。]", line, maxsplit=1)[0])
        if moves:
            return moves
    return None


_MOST_HEADINGS = 8
_LONGEST = 2000
"""Longer plans after a heading are cut: no map of this benchmark needs a tenth of it."""


def moves_in(text: str) -> str | None:
    """The moves of a text that is nothing but moves, separators and fillers; None for any other."""
    plain = _LATEX.sub(_arrow, nfc(text))
    if _NO_MOVES.search(plain):
        return None
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)  # "DownRight"
    plain = without_dress(plain).casefold().replace("->", " → ").replace("=>", " → ").replace("\ufe0f", "")
    plain = re.sub(r"^[\s\"'*]{0,5}(?:action )?(?:plan|answer|moves|path)\s?[:=]", " ", plain)
    moves = _moves_of_tokens(plain)
    if moves is None:
        return None
    if not moves:
        return "".join(MOVE_OF[char] for char in plain if char in _ARROWS) or None
    has_other_arrows = any(char in _ARROWS and char != "→" for char in re.sub(r"\([^()]{1,12}\)", "", plain))
    return None if has_other_arrows else moves


def _moves_of_tokens(plain: str) -> str | None:
    """The moves that letters and words name, "" if there are none, None if anything else is there."""
    moves: list[str] = []
    previous, pending = "", ""
    for kind, token in _tokens(plain):
        named = "" if kind == "other" else _letters(token)
        if named is None and token not in _FILLER:
            return None
        if kind == "other" and token not in _SEPARATORS and token not in _ARROWS:
            return None
        repeats = bool(named) and named == (previous if kind == "repeat" else pending)
        if kind != "other":
            is_first_name = kind == "repeat" and not repeats
            previous, pending = (named or "" if kind == "word" else ""), (named or "" if is_first_name else "")
        if named and not repeats:
            moves.append(named)
    return "".join(moves)


def _tokens(plain: str) -> Iterator[tuple[str, str]]:
    for match in _TOKEN.finditer(plain):
        if match.group("repeat"):
            yield "repeat", match.group("again")
        elif not match.group("number"):
            yield ("word" if match.group("word") else "other"), match.group()


def _letters(word: str) -> str | None:
    """The moves of one word: "down", "d", or several letters at once as in "ddlu"."""
    if word in MOVE_OF:
        return MOVE_OF[word]
    if _WRITTEN_TOGETHER.fullmatch(word):
        return "".join(MOVE_OF[each] for each in word if each in MOVE_OF) or None
    letters = word.upper()
    return letters if set(letters) <= set("UDLR") else None


def _arrow(match: re.Match[str]) -> str:
    name = match.group().lstrip("\\").casefold().removeprefix("long").removesuffix("arrow")
    return _LATEX_ARROWS[name]
