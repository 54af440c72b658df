"""SAT's text match (models/eval_funcs.py, QAAccuracy): the answer must be the right option's text, after some cuts.

SAT asks in words, not by letters, so that a bare letter is wrong under this rule.
"""

from __future__ import annotations

from collections.abc import Callable

_CLOSER = (" is closer", " are closer", " is situated closer", " are situated closer")
_TURNS = {"clockwise": "left", "counter-clockwise": "right"}


def text_match(output: str, question: str, right: str) -> tuple[bool, str | None]:
    """Whether the text that the authors' cuts leave is the right option's, and that text; None if their code fails."""
    answer = _spoken(output.strip(), right)
    try:
        for cut in (_by_question(question.lower()), _marked, _numbered, _located, _announced):
            answer = cut(answer)
    except IndexError:  # the phrase ends the answer: the authors' code stops there
        return False, None
    expected = right.lower().strip().replace("(", "").replace(")", "")
    return answer == expected, answer or None


def _spoken(text: str, right: str) -> str:
    """The answer up to the next turn of the chat ("###"), in lower case."""
    answer = _up_to_turn(text)
    if not answer:
        role = "###Assistant:" if "###Assistant" in text else "###Human:"
        answer = _up_to_turn(text.split(role)[1]) if role in text else ""
    if right in ("yes", "no") and answer not in ("yes", "no"):
        answer = _up_to_turn(text.split("###Assistant:")[1] if "###Assistant:" in text else text)
    answer = "right" if answer == "ight" else answer
    return answer.replace("ight stand", "night stand")


def _up_to_turn(text: str) -> str:
    return text.split("###")[0].strip().lower()


def _by_question(question: str) -> Callable[[str], str]:
    """The cut of the questions about distance, the camera and relative positions; the last that applies counts."""

    def cut(answer: str) -> str:
        result = answer
        if "which object is closer" in question:
            phrase = next((phrase for phrase in _CLOSER if phrase.strip() in answer), None)
            result = answer.split(phrase)[0].split(" ")[-1].strip() if phrase else answer
        if "is the camera moving" in question:
            word = answer.split("moving ")[1].split(" ")[0].strip() if "moving" in answer else result
            result = _TURNS.get(word, word) if "moving" in answer else word
        if "considering the relative positions" in question and "is located to" in answer:
            result = "right" if "right" in answer else "left"
        return result

    return cut


def _marked(answer: str) -> str:
    for mark in ("(highlighted by", "(marked by"):  # the second mark is looked for, the first is cut at
        if mark in answer:
            answer = answer.split("(highlighted by")[0].strip()
    return answer


def _numbered(answer: str) -> str:
    return answer.split("1.")[1].strip() if "1." in answer else answer


def _located(answer: str) -> str:
    if "is located" not in answer:
        return answer
    return answer.split("is located ")[1].split(" ")[0].strip()


def _announced(answer: str) -> str:
    return answer.split("answer: ")[1].split(" ")[0].strip() if "answer:" in answer else answer
