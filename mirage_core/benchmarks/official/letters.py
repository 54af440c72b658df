"""The official readers of letters: V* and MME-RealWorld of lmms-eval, HR-Bench, BLINK, CoMT.

A reader gets the raw output, thoughts included, and returns a letter, or None where the authors' code finds none.
``REFUSED`` stands for an answer that the authors' code counts as a refusal, without a judge model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

REFUSED = "Z"
_FOUR = "ABCD"
_VSTAR = tuple(
    re.compile(pattern)
    for pattern in (
        r"\A([A-D])",  # whatever follows: "BLUE" is B
        r"(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])",
        r"\(([A-D])\)",
        r"([A-D])\s*[.)\]]",
        r"(?:\A|\s)([A-D])(?:\s|\Z)",
    )
)
_HR_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_HR_NO_ANSWER = "Failed to obtain answer via API"
_HR_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
# The two last pairs lack a comma in the authors' list, so that each pair is one phrase.
_MME_PREFIXES = (
    "The best answer is", "The correct answer is", "The answer is", "The answer",
    "The best option isThe correct option is", "Best answer:Best option:",
)  # fmt: skip
_MME_LONG = 10


def vstar(output: str) -> str | None:
    """V* in lmms-eval (tasks/vstar_bench/utils.py): the first of five patterns that occurs, else the only A to D."""
    text = output.strip().upper()
    for pattern in _VSTAR:
        match = pattern.search(text)
        if match:
            return match.group(1)
    letters = re.findall("[A-D]", text)
    return letters[0] if len(letters) == 1 else None


def hr_bench(output: str, options: Mapping[str, str]) -> str | None:
    """HR-Bench's rules (tasks/hrbench/hrbench_evals.py in lmms-eval); None: its authors ask a judge model.

    The only option's letter among the words, else REFUSED for known refusals, else the only option whose text is
    contained.
    """
    answer = output.strip()
    if _HR_NO_ANSWER not in answer:
        if any(refusal in answer for refusal in _HR_REFUSALS):
            return REFUSED
        words = set(answer.translate(_HR_PUNCTUATION).split())
        named = [letter for letter in options if letter in words]
        if len(named) == 1:
            return named[0]
        if not named and REFUSED in words:
            return REFUSED
    lower = answer.lower()
    contained = [letter for letter, text in options.items() if str(text).lower() in lower]
    return contained[0] if len(contained) == 1 else None


def blink(output: str, options: Mapping[str, str]) -> str | None:
    """BLINK's rules (eval/test_benchmark.py); None: its authors ask a judge model.

    The answer "B" or "(B)" alone, else the only "(B)" among the words of the last paragraph, else of all.
    """
    if output in set("ABCDE") | {f"({letter})" for letter in "ABCDE"}:
        return output.strip("()")
    choices = {f"({letter})" for letter in options}
    anywhere = choices & set(output.split())
    last = choices & set(output.rpartition("\n\n")[2].split())
    if len(last) == 1:
        return last.pop().strip("()")
    return anywhere.pop().strip("()") if len(anywhere) == 1 else None


def comt(output: str, options: Mapping[str, str]) -> str | None:
    """CoMT's evaluate.py: the last "(X)", any X; else the last option (in the options' order) whose text is contained,
    whose capital is a word, or whose small letter is a word."""
    text = output.rpartition("ANSWER:")[2] if "[Answer]" in output else output
    bracketed = re.findall(r"\(([A-Za-z])\)", text)
    if bracketed:
        return bracketed[-1].upper()
    contained = [letter for letter in _FOUR if letter in options and options[letter].lower() in text.lower()]
    words = set(re.sub(r"[\n.,!?]", " ", text).split(" "))
    capitals = [letter for letter in _FOUR if letter in options and letter in words]
    small = [letter for letter in _FOUR if letter in options and letter.lower() in words]
    chosen = contained or capitals or small
    return chosen[-1] if chosen else None


def mme_realworld(output: str) -> str | None:
    """MME-RealWorld in lmms-eval (tasks/mme_realworld/utils.py): without some openings, the first capital A-E.

    Without any, the first of "(a)" to "(e)" that contains the answer: an empty answer is A.
    """
    text = output.strip()
    for prefix in _MME_PREFIXES:
        text = text.replace(prefix, "")
    capital = re.search("[A-E]", text)
    if capital:
        return capital.group()
    if len(text.split()) > _MME_LONG:
        return None
    return next((letter for letter in "ABCDE" if text.lower() in f"({letter.lower()})"), None)
