"""The text of an answer while its tokens arrive: characters, stop words, thoughts apart from the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_INCOMPLETE = "\ufffd"
"""How a tokenizer shows bytes that do not make a character yet."""
_OPEN, _CLOSE = "<think>", "</think>"
_BETWEEN_THOUGHTS = "\n\n"


class Detokenizer:
    """Turns tokens into text piece by piece; ``decode`` maps ids to text (byte-level: pieces simply follow)."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._pending: list[int] = []

    def add(self, token: int) -> str:
        """The text that this token completes."""
        self._pending.append(token)
        text = self._decode(self._pending)
        if text.endswith(_INCOMPLETE):
            return ""
        self._pending = []
        return text

    def flush(self) -> str:
        """What is left where a run of tokens ends."""
        text, self._pending = self._decode(self._pending) if self._pending else "", []
        return text


class StopWords:
    """Lets text through up to the first stop word; holds back what could be the begin of one."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._pending = ""
        self.stopped = False

    def add(self, text: str) -> str:
        """The text that is certain now. ``stopped`` once a stop word is complete; nothing follows it."""
        if self.stopped:
            return ""
        text = self._pending + text
        found = [at for at in (text.find(word) for word in self._words) if at >= 0]
        if found:
            self.stopped, self._pending = True, ""
            return text[: min(found)]
        pending = max((overlap(text, word) for word in self._words), default=0)
        self._pending = text[len(text) - pending :]
        return text[: len(text) - pending]

    def flush(self) -> str:
        """What was held back, at the end of the answer."""
        text, self._pending = self._pending, ""
        return text


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of an answer: of a thought, or of the answer itself."""

    text: str
    thought: bool


class ThoughtSplitter:
    """Splits text at ``<think>`` and ``</think>``, which it drops; two thoughts are apart by an empty line."""

    def __init__(self) -> None:
        self._pending, self._inside, self._thoughts = "", False, 0

    def add(self, text: str) -> list[Piece]:
        """The pieces that are certain now."""
        pieces, text = [], self._pending + text
        while True:
            tag = _CLOSE if self._inside else _OPEN
            before, found, after = text.partition(tag)
            if not found:
                break
            pieces.append(Piece(before, self._inside))
            self._inside, text = not self._inside, after
            self._thoughts += self._inside
            if self._inside and self._thoughts > 1:
                pieces.append(Piece(_BETWEEN_THOUGHTS, True))
        pending = overlap(text, tag)
        self._pending = text[len(text) - pending :]
        return [piece for piece in (*pieces, Piece(text[: len(text) - pending], self._inside)) if piece.text]

    def flush(self) -> list[Piece]:
        """What was held back, at the end of the answer."""
        text, self._pending = self._pending, ""
        return [Piece(text, self._inside)] if text else []


def overlap(text: str, word: str) -> int:
    """Return how many characters at the end of ``text`` are the begin of ``word``, but not all of it."""
    return next((size for size in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:size])), 0)
