r"""The one reader of answers in words: of own data without options, and of tables.

In this order, on the answer without its thoughts: the last box, which need not be closed at the end; the last statement
that announces an answer ("the answer is 12", ``{"answer": "12"}``); an answer of one sentence; a short last line.
An answer that says that it has none is unparsed. All steps take time linear in the answer.
"""

from __future__ import annotations

import re

from mirage_core.benchmarks.answer_parsing import boxed, final_answer, nfc, unclosed_box, without_dress

_LONGEST = 300
"""An announced answer, and an answer of one sentence, is at most so long."""
_SHORT = 80
_TAIL = 40_000
"""Of a longer text, which repeats itself, these last characters are read."""
_ANNOUNCED = re.compile(
    r"[\"'*_]{0,3}\b(?:the |my )?(?:final |correct |short )?(?:answer|ans|result|response|réponse|respuesta|antwort"
    r"|risposta|resposta|ответ)\b[\"'*_]{0,4}(?:(?:\sto (?:the|this) question)?\s(?:is|are|was|were|would be|should be|es"
    r"|est|ist|è|é)(?:\s?[:：])?|\s{0,2}[:：=])|答案(?:是|为|應該是|应该是)?\s?[:：]?|答え(?:は|[:：])|정답(?:은|[:：])|####",
    flags=re.IGNORECASE,
)
_REFUSED = re.compile(
    r"\b(?:I(?:'m| am)? (?:cannot|can ?not|can't|am unable|unable|do not know|don't know|not sure|not able|couldn't"
    r"|could not)|unable to|cannot be (?:determined|answered|read)|can't be (?:determined|read)|impossible to (?:tell|say)"
    r"|not enough information|no answer|N/A)\b|\bsorry\b|无法|不知道|わかりません",
    flags=re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|。")
_COPULA = re.compile(r"\s(?:is|are|was|were|equals|totaled|totalled|amounted to|reached)\s", flags=re.IGNORECASE)
_OUTER = " \t\n\"'`*_“”"


def read_texts(output: str) -> tuple[str, ...]:
    """What an answer can be read as, the likeliest first; empty if it names nothing.

    One reading of a box and of an announced answer; of a sentence all of it, what follows its verb and what stands
    before ("The largest is Freeman.", "Freeman is the largest.").
    """
    text = nfc(final_answer(output))[-_TAIL:]
    box = boxed(text)
    if box is None:
        box = unclosed_box(text)
    if box is not None:
        return _kept(box)
    announced = _announced(text)
    if announced is not None:
        return announced
    lines = [line for line in (line.strip() for line in text.split("\n")) if line.strip("`*_- ")]
    lines = [line for line in lines if not line.startswith("```")]
    if len(lines) == 1:
        return _of_sentence(lines[0])
    last = lines[-1] if lines else ""
    return _kept(last) if len(last) <= _SHORT and not _refuses(last) and not _is_sentence(last) else ()


def text_key(text: str) -> str:
    """A text for comparison: composed, in lower case, without LaTeX's dress, outer quotes and emphasis and full stop."""
    plain = without_dress(text) if "\\" in text or re.fullmatch(r"\$[^$]*\$", text.strip()) else text
    before = None
    while plain != before:
        before, plain = plain, plain.strip(_OUTER).removesuffix(".").removesuffix("。")
    return " ".join(nfc(plain).casefold().split())


def _announced(text: str) -> tuple[str, ...] | None:
    """What follows the last announcement that anything follows, on its line or the next; None without one."""
    ends = [cue.end() for cue in _ANNOUNCED.finditer(text)]
    for end in reversed(ends[-8:]):
        line = text[end : end + _LONGEST].lstrip(" \t\n\"'*_`:：").partition("\n")[0].strip()
        line = re.split(r"\"\s{0,2}[,}]|</", line, maxsplit=1)[0]
        if line.strip(" .\"'*_`{}"):
            first = _SENTENCE_END.split(line, maxsplit=1)[0]
            return () if _refuses(line) else tuple(dict.fromkeys((*_kept(first), *_kept(line))))
    return None


def _of_sentence(line: str) -> tuple[str, ...]:
    """The readings of an answer that is one line."""
    if len(line) > _LONGEST or _refuses(line):
        return ()
    if not _is_sentence(line):
        return _kept(line)
    body = _SENTENCE_END.split(line, maxsplit=1)[0]
    verbs = list(_COPULA.finditer(body))
    parts = (body[verbs[-1].end() :], body[: verbs[0].start()]) if verbs else ()
    return tuple(dict.fromkeys(kept for part in (line, *parts) for kept in _kept(part)))


def _is_sentence(line: str) -> bool:
    return _COPULA.search(line) is not None or len(_SENTENCE_END.findall(line)) > 1


def _refuses(text: str) -> bool:
    return _REFUSED.search(text) is not None


def _kept(text: str) -> tuple[str, ...]:
    """A text without its dress, if anything is left."""
    plain = text.strip(_OUTER).strip()
    return (plain,) if plain.strip(" .") else ()
