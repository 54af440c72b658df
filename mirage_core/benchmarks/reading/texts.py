r"""The one reader of answers in words: of own data without options, and of tables.

In this order, on the answer without its thoughts: the last box, which need not be closed at the end; the last statement
that announces an answer ("the answer is 12", ``{"answer": "12"}``); an answer of one line; a short last line. An answer
that says that it has none is unparsed, and of one that negates or only bounds ("not 12", "more than 12") no part is
read. All steps take time linear in the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from mirage_core.benchmarks.answer_parsing import box_or_its_begin, final_answer, nfc, without_dress

_LONGEST = 300
"""An announced answer, and an answer of one line, is at most so long."""
_SHORT = 80
_TAIL = 40_000
"""Of a longer text, which repeats itself, these last characters are read."""
_MOST_ANNOUNCED = 8
_ANNOUNCED = re.compile(
    r"[\"'*_]{0,3}\b(?:the |my )?(?:final |correct |short )?(?:answer|ans|result|response|réponse|respuesta|antwort"
    r"|risposta|resposta|ответ)\b[\"'*_]{0,4}(?:(?:\sto (?:the|this) question)?"
    r"\s(?:is|are|was|were|would be|should be|est|es|ist|è|é)\b(?:\s?[:：])?|\s{0,2}[:：=])"
    r"|答案(?:是|为|應該是|应该是)?\s?[:：]?|答え(?:は|[:：])|정답(?:은|[:：])|####",
    flags=re.IGNORECASE,
)
_REFUSED = re.compile(
    r"\b(?:I(?:'m| am)? (?:cannot|can ?not|can't|am unable|unable|do not know|don't know|not sure|not able|couldn't"
    r"|could not)|unable to|cannot be (?:determined|answered|read)|can't be (?:determined|read)"
    r"|impossible to (?:tell|say)|not enough information)\b|\bsorry\b|无法|不知道|わかりません",
    flags=re.IGNORECASE,
)
_NEGATED = re.compile(
    r"\b(?:not|never|neither|nor|cannot|except|excluding|isn't|wasn't|aren't|weren't|doesn't|didn't|don't|can't|couldn't"
    r"|nicht|kein\w{0,2}|pas|не)\b|不是|不对|ではない",
    flags=re.IGNORECASE,
)
_DISMISSED = re.compile(r"\b(?:wrong|incorrect|false|ruled out|excluded)\b", flags=re.IGNORECASE)
_CUT_OFF = re.compile(r"\s(?:is|are|was|were|has|have|had|of|in|on|to|the|an?|and|or|with|by|from|their)$")
"""A sentence that stops before it says anything: "The percentage in 2006 was"."""
_BOUNDED = re.compile(
    r"\b(?:(?:more|less|fewer|greater|higher|lower|larger|smaller|other|rather) than|at (?:least|most)|up to|over|under"
    r"|above|below|instead of|between|either)\b",
    flags=re.IGNORECASE,
)
_RETRACTED = re.compile(r"\b(?:wait|actually|correction|no,|oops|let me re|scratch that)", flags=re.IGNORECASE)
_SENTENCES = re.compile(r"(?:(?<=[\d%)\"'*][.!?])|(?<=\w\w\w[.!?]))\s|。")
_INTERJECTION = re.compile(r"(?:h+m+|ok(?:ay)?|sure|well|certainly|of course|great question|yes|right)", re.IGNORECASE)
_COPULA = re.compile(
    r"(?:\b(?:it|that|this|there|he|she)'s|\s(?:=|is|are|was|were|equals|totaled|totalled|amounted to"
    r"|reached|has|have|had|shows?|reads?|says?))(?:\s?:)?(?:\s|$)",
    flags=re.IGNORECASE,
)
_PREPOSITION = re.compile(
    r"\s(?:in|on|at|of|for|from|to|through|into|by|with|as of|during|towards?|via)\s", flags=re.IGNORECASE
)
_AFTERTHOUGHT = re.compile(
    r",?\s(?:because|since|due to|given that)\s"
    r"|,\s(?:and )?(?:not|rather than|instead of|as|which|who|where)\s|\s\(|;\s"
    r"|\s[—–-]{1,2}\s",
    flags=re.IGNORECASE,
)
"""Begins what follows an answer in its sentence: a reason, a note, or what it is not."""
_OPENING = re.compile(
    r"\A(?:(?:so|thus|therefore|hence|then|probably|likely|most likely|maybe|perhaps|clearly|I (?:think|believe|guess)"
    r"|I'd say),?\s)+",
    flags=re.IGNORECASE,
)
_EXPLANATION = re.compile(
    r"\n\W{0,6}(?:explanation|reason(?:ing)?|rationale|justification|note)\b\W{0,3}:", flags=re.IGNORECASE
)
_MATHEMATICS = re.compile(r"(?:\$|\\[(\[])(?P<inner>[^$]{1,300})(?:\$|\\[)\]])\.?")
_PARTICIPLE = re.compile(r"[a-z]{2,14} (?:in|on|at|by|from|to|as) ")
_ARTICLE = re.compile(r"\A(?:the|an?|on|in|at)\s", flags=re.IGNORECASE)
_FIGURE = re.compile(
    r"(?<![^\W\d_])(?<![^\W\d_][-−])[-−]?\$?\d+(?:,\d{3})*(?:\.\d+)?"
    r"(?: ?(?:%|(?:thousand|million|billion|trillion)\b))?"
)
"""A number with its sign, its currency and its scale."""
_OUTER = " \t\n\"'`*_“”"


def read_texts(output: str) -> tuple[str, ...]:
    """What an answer can be read as, the likeliest first; empty if it names nothing.

    One reading of a box; of an announced answer the whole and its first sentence; of a sentence the whole, what follows
    its verb or its only preposition, and what stands before the verb ("The largest is Freeman.", "Freeman is the
    largest.", "He competed in 2004."), each also without its article.
    """
    text = nfc(final_answer(output))[-_TAIL:]
    box = box_or_its_begin(text)
    if box is not None:
        return _kept(box)
    announced = _announced(text)
    if announced is not None:
        return announced
    explained = _EXPLANATION.search(text)
    if explained is not None and text[: explained.start()].strip():
        text = text[: explained.start()]
    lines = [line for line in (line.strip() for line in text.split("\n")) if line.strip("`*_- ")]
    notes = [line for line in lines if line.startswith("```") or re.fullmatch(r"\([^()]*\)", line)]
    lines = [line for line in lines if line not in notes] or lines
    if not lines:
        return ()
    first, last = lines[0], lines[-1]
    if len(lines) > 1 and _is_bare(last):
        return _of_line(last)
    if len(lines) > 1 and _is_bare(first) and not first.endswith(":") and not _RETRACTED.search(text):
        return _of_line(first)
    return _of_line(last)


def figures_of(texts: Iterable[str]) -> tuple[str, ...]:
    """The only figure of an answer's readings, () where they have none or several, or one that is negated or bounded.

    It has its sign, currency and scale: "-5", "$3.9 million", "34 %".
    """
    plain = [text for text in texts if not any(cue.search(text) for cue in (_NEGATED, _BOUNDED, _DISMISSED))]
    figures = {figure for text in plain for figure in _FIGURE.findall(text)}
    return tuple(figures) if len(figures) == 1 else ()


def is_figure(text: str) -> bool:
    """Whether a text is nothing but a figure."""
    return _FIGURE.fullmatch(text.strip()) is not None


def refuses(text: str) -> bool:
    """Whether a text says that it does not answer."""
    return _REFUSED.search(text) is not None


def text_key(text: str) -> str:
    """A text for comparison: composed, in lower case, without LaTeX, outer quotes, emphasis and full stop."""
    plain = without_dress(text) if "\\" in text or re.fullmatch(r"\$[^$]*\$", text.strip()) else text
    return " ".join(nfc(plain).lstrip(_OUTER).rstrip(_OUTER + ".。").casefold().split())


def _announced(text: str) -> tuple[str, ...] | None:
    """What follows the last announcement that anything follows, on its line or the next; None without one."""
    ends = [cue.end() for cue in _ANNOUNCED.finditer(text)]
    for end in reversed(ends[-_MOST_ANNOUNCED:]):
        line = text[end : end + _LONGEST].lstrip(" \t\n\"'*_`:：").partition("\n")[0].strip()
        line = re.split(r"\"\s{0,2}[,}]|</|\}", line, maxsplit=1)[0]
        if line.strip(" .\"'*_`{}"):
            first = _SENTENCES.split(line, maxsplit=1)[0]
            readings = (first, line, _AFTERTHOUGHT.split(first, maxsplit=1)[0])
            return () if refuses(line) else tuple(dict.fromkeys(kept for part in readings for kept in _kept(part)))
    return None


def _of_line(line: str) -> tuple[str, ...]:
    """The readings of an answer that is one line."""
    if len(line) > _LONGEST or refuses(line):
        return ()
    sentences = [each for each in _SENTENCES.split(line) if each and not _INTERJECTION.fullmatch(each.strip(" .!?"))]
    if not sentences:
        return _kept(line)
    is_answered_first = _is_bare(sentences[0]) and not _RETRACTED.search(line)
    sentence = sentences[0] if is_answered_first else sentences[-1]
    if _CUT_OFF.search(sentence):
        return ()
    return tuple(dict.fromkeys(kept for part in (line, *_parts(sentence)) for kept in _kept(part)))


def _parts(sentence: str) -> Iterator[str]:
    """The sentence, and what of it can be the answer; nothing more of one that negates."""
    yield sentence
    body = _AFTERTHOUGHT.split(sentence.strip(_OUTER).rstrip(".!。"), maxsplit=1)[0]
    body = _OPENING.sub("", body)
    yield body
    if _NEGATED.search(body):
        return
    verbs = list(_COPULA.finditer(body))
    prepositions = list(_PREPOSITION.finditer(body))
    parts = []
    if verbs:
        named = body[verbs[-1].end() :]
        done = _PARTICIPLE.match(named)
        if done is not None:
            parts.append(named[done.end() :])
        figure = _FIGURE.match(named)
        if figure is not None and _PREPOSITION.match(named, figure.end()):
            parts.append(figure.group())
        parts += [named] if len(verbs) > 1 or _DISMISSED.search(named) else [named, body[: verbs[0].start()]]
    elif len(prepositions) == 1:
        parts += [body[prepositions[0].end() :], body[prepositions[0].start() :].strip()]
    for part in parts:
        yield part
        yield _ARTICLE.sub("", part, count=1)


def _is_bare(line: str) -> bool:
    """Whether a line is an answer rather than a sentence."""
    return len(line) <= _SHORT and not refuses(line) and _COPULA.search(line) is None and not _SENTENCES.search(line)


def _kept(text: str) -> tuple[str, ...]:
    """A text without its quotes and emphasis, and without LaTeX's signs around all of it, if anything is left."""
    plain = text.strip(_OUTER).strip()
    formula = _MATHEMATICS.fullmatch(plain)
    if formula is not None:
        plain = formula.group("inner").strip()
    return (plain,) if plain.strip(" .") else ()
