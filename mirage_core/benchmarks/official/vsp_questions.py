"""VSP's rules for its questions about mazes (maze/task1 to task4, eval.py of each)."""

from __future__ import annotations

from collections.abc import Callable

_TASK1_DROPPED = str.maketrans("", "", "\"'\n.()")
_TASK2_DROPPED = str.maketrans("", "", "\"'\n.*")
_TASK3_DROPPED = str.maketrans("", "", "\"'\n.*:()<>`")
_TASK4_DROPPED = str.maketrans("", "", "\"'\n.:-*")
_WINDOW = 10
"""Characters after "Output" that task 4 reads."""


def _after(text: str, *marks: str) -> str:
    """What follows the first mark that occurs; without any, the text from one short of the last mark's length on."""
    for mark in marks:
        at = text.find(mark)
        if at >= 0:
            return text[at + len(mark) :]
    return text[len(marks[-1]) - 1 :]


def task1(output: str, right: str) -> tuple[bool, str | None]:
    """Is a cell safe: after "<Output>" nothing but yes or no."""
    answer = _after(output, "<Output>").translate(_TASK1_DROPPED).strip().lower()
    return answer == right.lower(), answer if answer in ("yes", "no") else None


def task2(output: str, right: str) -> tuple[bool, str | None]:
    """Where the player is: after "<Output>" every right word between commas; more words do no harm."""
    if "<Output> " not in output and "<Output>\n" not in output:
        return False, None
    words = [word.translate(_TASK2_DROPPED).strip() for word in _after(output, "<Output> ", "<Output>\n").split(",")]
    return all(word.strip() in words for word in right.split(",")), ", ".join(words)


def task3(output: str, right: str) -> tuple[bool, str | None]:
    """Which of four texts shows the map: after "<Answer>", "**Answer" or "Answer" nothing but A, B, C or D."""
    answer = _after(output, "<Answer>", "**Answer", "Answer").translate(_TASK3_DROPPED).strip()
    return answer == right, answer if answer in ("A", "B", "C", "D") else None


def task4(output: str, right: str) -> tuple[bool, str | None]:
    """Is a plan safe: yes or no, not both, in the ten characters after "<Output>", "**Output**" or "Output"."""
    answer = _after(output, "<Output>", "**Output**", "Output")[:_WINDOW].translate(_TASK4_DROPPED).strip().lower()
    named = [word for word in ("yes", "no") if word in answer]
    return named == [right.lower()], named[0] if len(named) == 1 else None


TASKS: dict[str, Callable[[str, str], tuple[bool, str | None]]] = {
    "task1": task1,
    "task2": task2,
    "task3": task3,
    "task4": task4,
}
