"""Where an answer mentions options, by letter or by text, and which of these mentions reject the option."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from mirage_core.benchmarks.answer_parsing import nfc
from mirage_core.benchmarks.reading.phrases import (
    CLAUSE_END,
    CONFIRMED_AFTER,
    HEDGED_BEFORE,
    IDIOMS,
    LIST_LINK,
    REJECTED_AFTER,
    REJECTED_BEFORE,
    WINDOW,
)

Kind = Literal["dressed", "bare", "text"]
_WORD = r"A-Za-z0-9_À-ɏͰ-Ͽа-яА-ЯёЁ"
"""The characters of words in scripts that have spaces: a letter between two of these is no option's letter."""
_LETTER = re.compile(
    rf"[(\[<]\s?(?P<bracketed>[A-Za-z])\s?[)\]>]"
    rf"|\b(?:options?|choices?|letters?|antwort|opción|opcion|opção|opzione|option|вариант|réponse|reponse"
    rf"|alternativa)\s:?"
    rf"[(\[\"]?(?P<named>[A-Za-z])(?![{_WORD}'’])"
    rf"|(?:选项|選項|選択肢|보기|选|選)\s?(?P<cjk>[A-Za-z])(?![{_WORD}])"
    rf"|(?<![{_WORD}(\[])(?P<closed>[A-Z])\)(?![{_WORD}])"
    rf"|(?<![{_WORD}'’+\-.&])(?P<bare>[A-Z])(?![{_WORD}'’+&#]|-[{_WORD}]|\.[{_WORD}])"
)
_ARTICLE = re.compile(
    r"\s(?!(?:is|are|was|because|since|as|and|or|but|with|for|which|that|due|based|rather|not|instead|seems|looks"
    r"|fits|matches"
    r"|appears|must|should|would|cannot|can't|can|has|shows|over|in|if|ist|est|es|è|é|и|или|oder|und|ou|y|correct"
    r"|wins)\b)"
    r"[a-zà-ɏ]"
)

_ASKED = re.compile(r"[)\]\"'*\s]{0,3}[?？](?!\s?(?:yes|correct|right|exactly|indeed|\Z))", flags=re.IGNORECASE)


_FIRST, _LAST = 200, 800
"""Of an answer with more mentions than these, which repeats itself, the first and the last ones are looked at."""


@dataclass(slots=True)
class Mention:
    """One mention of an option: its letter in brackets or called an option (dressed), its letter alone, or its text."""

    letter: str
    begin: int
    end: int
    kind: Kind
    rejected: bool = False
    asked: bool = False
    hedged: bool = False
    """Whether it is only called possible: "could be B", "maybe B"."""
    joined: bool = False
    """Whether the next mention belongs to one list with this one: "A or B"."""


def mentions_of(text: str, options: Mapping[str, str]) -> list[Mention]:
    """All mentions in their order; an option's text hides letters inside it, a longer option's text a shorter one's."""
    mentions = [*_letters(text, options), *_texts(text, tuple(options.items()))]
    mentions.sort(key=lambda mention: (mention.begin, -mention.end))
    kept: list[Mention] = []
    for mention in mentions:
        if not kept or mention.begin >= kept[-1].end:
            kept.append(mention)
    if len(kept) > _FIRST + _LAST:
        kept = [*kept[:_FIRST], *kept[-_LAST:]]
    _judge(text, kept)
    return kept


def _letters(text: str, options: Mapping[str, str]) -> list[Mention]:
    mentions = []
    for match in _LETTER.finditer(text):
        kind = str(match.lastgroup)
        letter = match.group(kind).upper()
        if letter not in options or (kind == "bare" and letter in "AI" and _ARTICLE.match(text, match.end())):
            continue
        if kind == "named" and match.group(kind) in "ai" and _ARTICLE.match(text, match.end()):
            continue
        begin = match.start() if kind == "bracketed" else match.start(kind)
        mentions.append(Mention(letter, begin, match.end(), "bare" if kind == "bare" else "dressed"))
    return mentions


def _texts(text: str, options: tuple[tuple[str, str], ...]) -> list[Mention]:
    pattern, letters = _text_pattern(options)
    if pattern is None:
        return []
    idioms = [match.span() for match in IDIOMS.finditer(text)]
    mentions, at = [], 0
    for match in pattern.finditer(text):
        while at < len(idioms) and idioms[at][1] <= match.start():
            at += 1
        if at < len(idioms) and idioms[at][0] <= match.start() and match.end() <= idioms[at][1]:
            continue
        letter = letters.get(option_key(match.group()))
        if letter:
            mentions.append(Mention(letter, match.start(), match.end(), "text"))
    return mentions


@lru_cache(maxsize=512)
def _text_pattern(options: tuple[tuple[str, str], ...]) -> tuple[re.Pattern[str] | None, dict[str, str]]:
    """A pattern of the options' texts on word borders, the longest first, and the letter of each text's key."""
    letters: dict[str, str] = {}
    texts: list[str] = []
    for letter, option in options:
        text = " ".join(nfc(option).split()).strip().rstrip(". ")
        key = option_key(text)
        if len(key) > 1 or (key and not key.isalpha()) or (key and not key.isascii()):
            if key not in letters:
                texts.append(text)
            letters[key] = letter if key not in letters else ""
    for key, letter in turned(options).items():
        if key not in letters and letter:
            letters[key] = letter
            texts.append(key)
    letters = {key: letter for key, letter in letters.items() if letter}
    texts = sorted((text for text in texts if option_key(text) in letters), key=len, reverse=True)
    if not texts:
        return None, letters
    return re.compile("|".join(map(_on_word_borders, texts)), flags=re.IGNORECASE), letters


def turned(options: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """The letters of options of two parts by their text the other way round: "blue and red" for "Red and blue".

    The parts are all of the text, or the words beside "and". No letter ("") where two options have one text so.
    """
    letters: dict[str, str] = {}
    for letter, option in options:
        before, link, after = option_key(option).replace(" & ", " and ").partition(" and ")
        if not link or not before or not after or " and " in after:
            continue
        (*begin, first), (second, *end) = before.split(), after.split()
        for key in (f"{after} and {before}", " ".join([*begin, second, "and", first, *end])):
            letters[key] = letter if letters.get(key, letter) == letter else ""
    return letters


def _on_word_borders(text: str) -> str:
    before = rf"(?<![{_WORD}])" if re.match(rf"[{_WORD}]", text) else ""
    after = rf"(?![{_WORD}]|-[{_WORD}])" if re.search(rf"[{_WORD}]$", text) else ""
    if text[0].isdigit():
        before += r"(?<!\d[.,:])(?<![-−+])"
    if text[-1].isdigit():
        after += r"(?![.,:\-–−]\d)"
    return before + re.escape(text) + after


def is_own_text(text: str, letter: Mention, following: Mention) -> bool:
    """Whether the mention after a letter is the text of the same option: "(A) left"."""
    if letter.letter != following.letter or letter.kind == "text" or following.kind != "text":
        return False
    return following.begin - letter.end <= 6 and not text[letter.end : following.begin].strip(" ).:,-–—\"'(=")


def option_key(text: str) -> str:
    """A text for comparison with an option's: in lower case, without extra spaces, outer quotes and punctuation."""
    return " ".join(nfc(text).casefold().split()).strip(" .,;:!?\"'`*()[]{}<>_#|✅✓")


def _judge(text: str, mentions: Sequence[Mention]) -> None:
    """Mark mentions that are rejected, asked about, or joined to the next one in a list."""
    for at, mention in enumerate(mentions):
        # In "(D) No vehicle" the option's own text follows its letter, and rejects nothing.
        named = at + 1 < len(mentions) and is_own_text(text, mention, mentions[at + 1])
        mention.rejected = _rejected_before(text, mention) or (not named and _rejected_after(text, mention))
        mention.hedged = HEDGED_BEFORE.search(text[max(0, mention.begin - WINDOW) : mention.begin]) is not None
        mention.asked = _ASKED.match(text[mention.end : mention.end + 20]) is not None
        if at + 1 < len(mentions):
            mention.joined = _is_list(text, mention, mentions[at + 1])
    _spread(text, mentions)
    last = mentions[-1] if mentions else None
    if last is not None and re.fullmatch(r"[)\]\"'*\s]{0,3}[?？]\s{0,3}", text[last.end : last.end + 9]):
        last.asked = any(each.asked and not each.rejected and each.letter != last.letter for each in mentions)


def _rejected_before(text: str, mention: Mention) -> bool:
    before = text[max(0, mention.begin - WINDOW) : mention.begin]
    clause = re.split(r"[.;!?\n。；！？]", before)[-1]
    return REJECTED_BEFORE.search(clause) is not None


def _rejected_after(text: str, mention: Mention) -> bool:
    return REJECTED_AFTER.match(text[mention.end : mention.end + WINDOW]) is not None


def _is_list(text: str, first: Mention, second: Mention) -> bool:
    between = text[first.end : second.begin]
    return len(between) <= WINDOW // 2 and LIST_LINK.fullmatch(between) is not None


def _spread(text: str, mentions: Sequence[Mention]) -> None:
    """Give a rejection to all of a list ("not A, B or C"), and to both names of an option ("(A) left is wrong")."""
    begin = 0
    while begin < len(mentions):
        end = begin
        while end + 1 < len(mentions) and mentions[end].joined:
            end += 1
        run = mentions[begin : end + 1]
        if _ends_in_conjunction(text, run):
            for mention in run:
                mention.rejected = mention.rejected or (
                    (run[0].rejected or run[-1].rejected) and not is_confirmed(text, mention)
                )
        else:
            _separate(run)
        begin = end + 1


def is_confirmed(text: str, mention: Mention) -> bool:
    """Whether the words after a mention call it right ("B is correct")."""
    return CONFIRMED_AFTER.match(text[mention.end : mention.end + WINDOW]) is not None


def _ends_in_conjunction(text: str, run: Sequence[Mention]) -> bool:
    """Whether the last two options of a list are joined by "and" or "or"."""
    for first, second in zip(reversed(run[:-1]), reversed(run[1:]), strict=True):
        if first.letter != second.letter:
            link = LIST_LINK.fullmatch(text[first.end : second.begin])
            return link is not None and link.group("joined") is not None
    return False


def _separate(run: Sequence[Mention]) -> None:
    """A list without "or" or "and" is none; the two names of one option keep one verdict."""
    for mention, following in pairwise(run):
        mention.joined = False
        if mention.letter == following.letter:
            mention.rejected = following.rejected = mention.rejected or following.rejected


def clause_end(text: str, begin: int, limit: int) -> int:
    """Where the clause that begins at ``begin`` ends, at most ``limit`` characters on."""
    match = CLAUSE_END.search(text, begin, min(len(text), begin + limit))
    return match.start() if match else min(len(text), begin + limit)
