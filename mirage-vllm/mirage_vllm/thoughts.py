"""Thoughts apart from the answer, while its text arrives: pure Python."""

from __future__ import annotations

from dataclasses import dataclass

_TAGS = ("<think>", "</think>")
_BETWEEN = "\n\n"


@dataclass(frozen=True, slots=True)
class Part:
    """Some text of an answer: what of it is thoughts, and what is the answer itself."""

    thoughts: str = ""
    answer: str = ""


class ThoughtSplitter:
    """Splits text at ``<think>`` and ``</think>``, which are dropped; two thoughts are apart by an empty line."""

    def __init__(self) -> None:
        self._pending, self._inside, self._thoughts = "", False, 0

    def add(self, text: str) -> Part:
        """What is certain with this text; the begin of a tag is held back."""
        parts, text = ["", ""], self._pending + text
        while True:
            tag = _TAGS[self._inside]
            before, found, after = text.partition(tag)
            if not found:
                break
            parts[self._inside] += before
            self._inside, text = not self._inside, after
            if self._inside:
                parts[True] += _BETWEEN if self._thoughts else ""
                self._thoughts += 1
        sizes = range(min(len(tag) - 1, len(text)), 0, -1)
        pending = next((size for size in sizes if text.endswith(tag[:size])), 0)
        self._pending = text[len(text) - pending :]
        parts[self._inside] += text[: len(text) - pending]
        return Part(thoughts=parts[True], answer=parts[False])

    def flush(self) -> Part:
        """What was held back, at the end of the text."""
        text, self._pending = self._pending, ""
        return Part(thoughts=text) if self._inside else Part(answer=text)


def split(text: str) -> Part:
    """Split a whole text."""
    splitter = ThoughtSplitter()
    first, rest = splitter.add(text), splitter.flush()
    return Part(thoughts=first.thoughts + rest.thoughts, answer=first.answer + rest.answer)
