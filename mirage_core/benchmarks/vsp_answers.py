"""Scoring of VSP's questions in words: is a cell safe, where is the player, which text is the map, is a plan safe."""

from __future__ import annotations

import re

from mirage_core.benchmarks.answer_parsing import boxed, final_answer, nfc, normalized_text
from mirage_core.benchmarks.benchmark import OFFICIAL, check_rule
from mirage_core.benchmarks.official.vsp_questions import TASKS
from mirage_core.benchmarks.reading.letters import read_letter
from mirage_core.types import Problem, Score

OFFICIAL_RULE = "vsp-official"
RULES = ("exact-text", OFFICIAL_RULE)
_YES_NO = {"Y": "yes", "N": "no"}
_INDEXED_LINES = 5
_PLACES = ("above", "below", "left", "right")


def right_answer(published: str) -> str:
    """The right answer of a published file: "Y" is yes, and of five lines the last is the index of the letter."""
    answer = published.strip()
    lines = answer.split("\n")
    if len(lines) == _INDEXED_LINES and lines[-1].strip() in ("0", "1", "2", "3"):
        return "ABCD"[int(lines[-1])]
    return _YES_NO.get(answer, answer)


def score(problem: Problem, output: str, rule: str = RULES[0]) -> Score:
    """Compare the answer with the published one: yes or no, a letter, places, or else the text of the box or last line.

    ``vsp-official``: the authors' code of the problem's task, which wants its own markers ("<Output>").
    """
    check_rule(rule, (*RULES, OFFICIAL), problem.benchmark)
    right = right_answer(problem.answer)
    if rule in (OFFICIAL, OFFICIAL_RULE):
        correct, parsed = TASKS[problem.group.partition("-")[0]](output, right)
        return Score(problem_id=problem.id, correct=correct, parsed=parsed, rule=OFFICIAL_RULE)
    parsed = _read(output, right)
    correct = parsed is not None and _same(parsed, right)
    return Score(problem_id=problem.id, correct=correct, parsed=parsed, rule=RULES[0])


def _read(output: str, right: str) -> str | None:
    """The answer of an output in the form of the right one."""
    if right.casefold().rstrip(".") in _YES_NO.values():
        letter = read_letter(output, _YES_NO)
        return None if letter is None else _YES_NO[letter]
    if len(right) == 1 and right in "ABCD":
        return read_letter(output, dict.fromkeys("ABCD", ""))
    text = final_answer(output)
    box = boxed(text)
    lines = text.splitlines()
    last = box or (lines[-1].strip() if lines else None)
    if last is not None and _is_places(right):
        named = re.findall(r"[a-z]+", nfc(last).casefold())
        return ", ".join(place for place in _PLACES if place in named) or None
    return last


def _is_places(text: str) -> bool:
    return all(word.strip().casefold() in _PLACES for word in text.split(","))


def _same(parsed: str, right: str) -> bool:
    if _is_places(right):
        return {*parsed.split(", ")} == {word.strip().casefold() for word in right.split(",")}
    return normalized_text(parsed) == normalized_text(right)
