r"""The one reader of option letters, the default rule of every benchmark with lettered options.

In this order, each step on the answer without its thoughts: the last box; a text that is nothing but an option's letter
or text; the last statement that decides ("the answer is B", "B is correct", a letter alone in the first or last line);
a conclusion ("so it is B"); the one option that is mentioned in brackets or quotes, by its text, or at the edge of a
sentence. Options that are rejected ("not B", "(A) is wrong") or only listed never win. An answer that names several, or
none, is None: never a guess. All steps take time linear in the answer.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice

from mirage_core.benchmarks.answer_parsing import boxes, final_answer, nfc, without_dress
from mirage_core.benchmarks.reading.mentions import (
    Mention,
    clause_end,
    is_confirmed,
    is_own_text,
    mentions_of,
    option_key,
    turned,
)
from mirage_core.benchmarks.reading.phrases import ANNOUNCED, CONCLUDED, FILLER, GAP, INFERENCE, REJECTED_BEFORE

_MOST_BOXES = 8
_HEAD, _TAIL = 10_000, 40_000
"""Of a longer text, which repeats itself, these characters are looked at for statements that choose an option."""
AMBIGUOUS = ""
"""What a step returns that found several options: the answer is unparsed, and no later step is tried."""
_EMPHASIS = re.compile(r"(?P<mark>\*{1,3}|_{1,3}|`{1,3}|\"|'|~~)\s?\(?(?P<letter>[A-Za-z])\)?[.:]?\s?(?P=mark)")
_NAMED_THING = re.compile(
    r"\b(?:fig(?:ure)?|image|picture|photo|point|person|panel|vitamin|plan|type|group|block|room|region|object"
    r"|box|cell|frame"
    r"|view|camera|step|case|side|line|row|column|player|car|team|section|part|page|triangle|angle|vertex|hepatitis"
    r"|grade|class|appendix|exhibit|schedule|zone|sector|building|terminal|gate|hall|wing|tower|unit|model|series|route"
    r"|track|lane|layer|site|station|city|company|school|sample|experiment|variable|node|square|level"
    r"|exit|platform|floor|deck|bus|train|wagon|street|avenue|road|seat|slot|shelf|locker|court|pier|dock|bay|stage|phase"
    r"|round|area|district)\.?\s$",
    flags=re.IGNORECASE,
)
_WINS = re.compile(r"\s?wins\b", flags=re.IGNORECASE)
_NOT_APPLICABLE = re.compile(r"\bn/a\b", flags=re.IGNORECASE)
_TAG = re.compile(
    r"</?(?:b|i|u|strong|em|p|span|div|code|mark|br|center|li|ul|ol|h\d|font|html|body)(?:\s[^<>\n]{0,60})?/?>"
)
_LABEL = re.compile(
    r"(?:(?:the\s)?(?:option|choice|letter|image|picture|figure|candidate|piece|patch|panel|opción|antwort|réponse"
    r"|вариант|选项|选"
    r"|選)\s?:?\s?)?(?P<letter>[A-Za-z])(?:\s?选项)?",
    flags=re.IGNORECASE,
)
_LEADING = re.compile(
    r"[^\w\n]{0,6}(?:(?:[Oo]ption|[Cc]hoice|选项|选)\s?)?"
    r"(?:(?P<upper>[A-Z])(?=\s?[).:\],;，。、：!\-–—]|\s?\n|$)|(?P<lower>[a-z])(?=[).:\]]|\s?\n|$))"
)
_OWN_QUESTION = re.compile(
    r"\A(?:q(?:uestion)?\s?\d{0,2}\s?[:.)：][^?？]{0,300}[?？]\s?)?a\s?\d{0,2}\s?[:：]\s?(?=\W{0,3}[a-z]\W{0,3}\Z)",
    flags=re.IGNORECASE,
)
_LOWER = re.compile(r"[\s\"'(\[]{0,3}([a-z])(?=[)\]\"']{0,2}\s?(?:[.,;!\n。]|$)|\s(?:because|since)\b)")
_LONGEST_LIST = 200
_DRESS_OF_LIST = r"[\s,.;/|\\&+<>=→()\[\]–—-]*"
_LIST_SEPARATOR = re.compile(
    rf"{_DRESS_OF_LIST}(?:\b(?:and|or|then|first|second|third|next|finally|lastly|followed by|plus|und|oder|et|ou|y|o|e"
    rf"|и|или)\b|[,.;/|\\&+>=→\n–—-]|和|或|与|、){_DRESS_OF_LIST}|(?<=\b[A-Za-z])\s(?=[A-Za-z]\b)",
    flags=re.IGNORECASE,
)
_PHRASE = re.compile(r"\s(?:not|in|for|which|with|that|if|over|but)\b")
"""After "A" at the begin of a sentence: the letter is an article or a pronoun, not an option's."""
_LAST_SENTENCE = re.compile(
    r"(?:therefore|thus|hence|so|overall|in conclusion|in summary|finally|conclusion|因此|所以|综上)\b", re.IGNORECASE
)


def read_letter(output: str, options: Mapping[str, str]) -> str | None:
    """The letter that an answer chooses among ``options`` (letters to texts), None if it chooses none or several."""
    text = nfc(final_answer(output))
    for box in islice(boxes(text), _MOST_BOXES):
        if box:
            letter = letter_in(box, options)
            if letter is None and _is_letter(box):
                return None  # a letter that is no option's
            if letter is not None:
                return letter or None
    return letter_in(text, options) or None


def letter_in(text: str, options: Mapping[str, str]) -> str | None:
    """The letter that a text without thoughts chooses; AMBIGUOUS if it names several, None if none."""
    plain = _plain(text)
    letter = _whole(plain, options)
    if letter is not None:
        return letter
    if _is_list_of_options(plain, options):
        return AMBIGUOUS
    if len(plain) > _HEAD + _TAIL:
        plain = plain[:_HEAD] + "\n" + plain[-_TAIL:]
    reader = _Reader(plain, options)
    for step in (reader.decided, reader.concluded, reader.dressed, reader.by_text, reader.at_an_edge):
        letter = step()
        if letter is not None:
            return letter
    return None


def _plain(text: str) -> str:
    """A text with emphasis around one letter as brackets, without other markup, empty lines and extra spaces."""
    bare = _EMPHASIS.sub(r"(\g<letter>)", _TAG.sub("*", _NOT_APPLICABLE.sub(" ", without_dress(nfc(text)))))
    lines = (" ".join(line.replace("*", " ").replace("`", " ").split()) for line in bare.split("\n"))
    return "\n".join(line for line in lines if line)


def _is_letter(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z]", option_key(without_dress(text))) is not None


def _whole(plain: str, options: Mapping[str, str]) -> str | None:
    """The option that is all of a text: its letter, or its text, or both."""
    key = option_key(_OWN_QUESTION.sub("", plain, count=1))
    label = _LABEL.fullmatch(key)
    if label is not None:
        letter = label.group("letter").upper()
        return letter if letter in options else None
    named = _keys(tuple(options.items())).get(key)
    return named or None


def _is_list_of_options(plain: str, options: Mapping[str, str]) -> bool:
    """Whether a text is nothing but several options: "A.B", "first A, then B", "red, blue"; "A: B" answers with B."""
    if len(plain) > _LONGEST_LIST:
        return False
    named = _keys(tuple(options.items()))
    asked = plain.replace("?", ",") if plain.endswith("?") else plain
    parts = [option_key(part) for part in _LIST_SEPARATOR.split(asked)]
    labels = [(part, _LABEL.fullmatch(part)) for part in parts if part]
    letters = [named.get(part) or (label.group("letter") if label else part).upper() for part, label in labels]
    if len(letters) == 2 and option_key(options.get(letters[0], "")) == letters[1].casefold():
        return False  # "A. B" where the text of A is "B"
    return len(set(letters)) > 1 and all(letter in options for letter in letters)


@lru_cache(maxsize=512)
def _keys(options: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """The letter of each option's text in the form for comparison; AMBIGUOUS for a text of several options."""
    keys = [(option_key(without_dress(text)), letter) for letter, text in options]
    counts = Counter(key for key, _ in keys)
    named = {key: letter if counts[key] == 1 else AMBIGUOUS for key, letter in keys if key}
    return {**{key: letter for key, letter in turned(options).items() if letter}, **named}


class _Reader:
    """One text with its mentions of options, read step by step."""

    def __init__(self, text: str, options: Mapping[str, str]) -> None:
        self.text, self.options = text, options
        self.mentions = mentions_of(text, options)
        self._begins = [mention.begin for mention in self.mentions]
        self._listed = self._restated()

    def decided(self) -> str | None:
        """The last statement that decides: an announcement, a confirmation, "so it is B", a first or last line."""
        steps = (self._announced(), self._confirmed(), self._inferred(), self._first_line(), self._last_line())
        decisions = [decision for step in steps for decision in step]
        return max(decisions, key=lambda decision: decision[0])[1] if decisions else None

    def _inferred(self) -> Iterator[tuple[int, str]]:
        """The options that follow right after "so" or "therefore" at the begin of a sentence."""
        for cue in CONCLUDED.finditer(self.text):
            mention = self._next(cue.end()) if cue.group("so") and self._begins_sentence(cue.start()) else None
            if mention is None or mention.rejected or mention.asked or mention.begin - cue.end() > GAP:
                continue
            if INFERENCE.fullmatch(self.text[cue.end() : mention.begin]):
                yield mention.begin, self._outcome(mention)

    def _begins_sentence(self, at: int) -> bool:
        return self.text[max(0, at - 3) : at].rstrip(" ")[-1:] in ("", ".", "!", "?", "\n", "。")

    def concluded(self) -> str | None:
        """The last conclusion ("so it is B"), else the only option of a last sentence that concludes."""
        outcomes = [outcome for cue in CONCLUDED.finditer(self.text) if (outcome := self._conclusion(cue)) is not None]
        return outcomes[-1] if outcomes else self._last_sentence()

    def _conclusion(self, cue: re.Match[str]) -> str | None:
        """The option right after a conclusion's cue, or the only one of the clause that "so" or "therefore" begins."""
        lower = _LOWER.match(self.text, cue.end())
        is_article = lower is not None and cue.group("so") and lower.end() == len(self.text)  # "So a", cut off
        if lower is not None and lower.group(1).upper() in self.options and not is_article:
            return lower.group(1).upper()
        mention = self._next(cue.end())
        if mention is None or mention.begin - cue.end() > GAP:
            return None
        if cue.group("last") and not any(each.rejected for each in self.mentions if each.begin < cue.start()):
            return None  # the last of several, unless the others were given up
        if FILLER.fullmatch(self.text[cue.end() : mention.begin]):
            return None if mention.rejected or mention.asked else self._outcome(mention)
        if cue.group("so") is None:
            return None
        end = clause_end(self.text, cue.end(), 2 * GAP)
        return self._only(self.mentions[bisect_left(self._begins, cue.end()) : bisect_left(self._begins, end)]) or None

    def dressed(self) -> str | None:
        """The only option whose letter stands in brackets or quotes, or is called an option."""
        return self._only(mention for mention in self.mentions if mention.kind == "dressed")

    def by_text(self) -> str | None:
        """The only option whose text is mentioned; of a text that begins with an option and a comma, that one."""
        first = re.split(r"[.,:](?!\d)|[;!?\n—]", self.text, maxsplit=1)[0]
        named = _keys(tuple(self.options.items())).get(option_key(first))
        if named and not self.text[len(first) :].startswith("?") and option_key(first) not in ("right", "ok"):
            return named
        return self._only(mention for mention in self.mentions if mention.kind == "text")

    def at_an_edge(self) -> str | None:
        """The only option whose letter begins or ends a sentence."""
        edges = [each for each in self.mentions if each.kind == "bare" and self._is_edge(each)]
        if any(self._counts(each) and self._outcome(each) == AMBIGUOUS for each in edges):
            return AMBIGUOUS
        return self._only(edges)

    def _announced(self) -> Iterator[tuple[int, str]]:
        for cue in ANNOUNCED.finditer(self.text):
            begin = self._gap_begin(cue.end())
            if REJECTED_BEFORE.search((cue.group("inner") or "") + " "):
                continue
            lower = _LOWER.match(self.text, begin)
            if lower is not None and lower.group(1).upper() in self.options:
                yield lower.start(1), lower.group(1).upper()
                continue
            mention = self._first_kept(begin, clause_end(self.text, begin, GAP))
            if mention is not None:
                yield mention.begin, self._outcome(mention)

    def _gap_begin(self, at: int) -> int:
        """Where the words after a cue begin: colons, dots and new lines right after it do not end its clause."""
        match = re.compile(r"[\s:：.,\"'*>=-]{0,12}").match(self.text, at)
        return match.end() if match else at

    def _confirmed(self) -> Iterator[tuple[int, str]]:
        for mention in self.mentions:
            if mention.rejected or not is_confirmed(self.text, mention) or self._is_whether(mention):
                continue
            if not (_WINS.match(self.text, mention.end) and self._is_named_thing(mention)):  # "Team B wins": a story
                yield mention.begin, self._outcome(mention)

    def _is_named_thing(self, mention: Mention) -> bool:
        return _NAMED_THING.search(self.text[max(0, mention.begin - 20) : mention.begin]) is not None

    def _is_whether(self, mention: Mention) -> bool:
        before = self.text[max(0, mention.begin - 25) : mention.begin]
        return re.search(r"\b(?:whether|if|which|ob|si|se)\b[^.\n]{0,12}$", before, flags=re.IGNORECASE) is not None

    def _first_line(self) -> Iterator[tuple[int, str]]:
        """A letter that begins the answer as its choice: "B", "B.", "b)", "B, since", "B cotton"."""
        leading = _LEADING.match(self.text)
        letter = (leading.group("upper") or leading.group("lower")).upper() if leading else ""
        if leading is not None and letter in self.options:
            at = leading.start("upper") if leading.group("upper") else leading.start("lower")
            mention = next((each for each in self.mentions[:2] if each.begin <= at < each.end), None)
            if mention is None:
                yield at, letter
            elif self._counts(mention):
                yield at, self._outcome(mention)
        elif (
            len(self.mentions) > 1
            and self.mentions[0].begin <= 2
            and self._is_own(0)
            and self._counts(self.mentions[0])
        ):
            yield self.mentions[0].begin, self.mentions[0].letter

    def _last_line(self) -> Iterator[tuple[int, str]]:
        begin = self.text.rfind("\n") + 1
        line = self.text[begin:]
        letter = _whole(line, self.options) if begin else None
        if letter is None and begin:
            label = re.fullmatch(r"\W{0,6}([A-Za-z])[).:]\s?(.{1,300})", line)
            own = label is not None and _keys(tuple(self.options.items())).get(option_key(label.group(2)))
            letter = own if label is not None and own and label.group(1).upper() == own else None
        if letter and (not self._listed or all(each.begin < begin for each in self._listed)):
            yield len(self.text), letter

    def _last_sentence(self) -> str | None:
        begin = max(self.text.rstrip(".!\n ").rfind(mark) for mark in (". ", "\n", "! ", "。", "? ")) + 1
        sentence = self.text[begin:].lstrip()
        if _LAST_SENTENCE.match(sentence) is None:
            return None
        return self._only(mention for mention in self.mentions if mention.begin >= begin)

    def _restated(self) -> list[Mention]:
        """The mentions of a list of the options with their texts, as the question has it: they choose nothing."""
        pairs = [at for at in range(len(self.mentions) - 1) if self._is_own(at)]
        if len({self.mentions[at].letter for at in pairs}) < 2:
            return []
        seen: set[str] = set()
        listed = []
        for at in pairs:
            if self.mentions[at].letter not in seen:
                listed += [self.mentions[at], self.mentions[at + 1]]
            seen.add(self.mentions[at].letter)
        kept = {mention.letter for mention in listed if not mention.rejected}
        return listed if len(kept) != 1 or len(seen) < len(self.options) else []

    def _is_own(self, at: int) -> bool:
        """Whether a letter is followed by its own option's text: "(A) left"."""
        return is_own_text(self.text, self.mentions[at], self.mentions[at + 1])

    def _counts(self, mention: Mention) -> bool:
        return not mention.rejected and not mention.asked and all(mention is not each for each in self._listed)

    def _only(self, mentions: Iterable[Mention]) -> str | None:
        """The letter of the only option mentioned, AMBIGUOUS if there are several."""
        listed = {id(mention) for mention in self._listed}
        letters = {each.letter for each in mentions if not each.rejected and not each.asked and id(each) not in listed}
        return letters.pop() if len(letters) == 1 else AMBIGUOUS if letters else None

    def _outcome(self, mention: Mention) -> str:
        """The letter of a mention that decides, AMBIGUOUS if it is one of several: "A or B", "maybe A, maybe B"."""
        if mention.hedged and self._other_hedged(mention):
            return AMBIGUOUS
        at = bisect_left(self._begins, mention.begin)
        if at > 0 and self.mentions[at - 1].joined and self.mentions[at - 1].letter != mention.letter:
            return AMBIGUOUS
        for number in range(at, len(self.mentions) - 1):
            first, second = self.mentions[number], self.mentions[number + 1]
            if second.letter != mention.letter:
                listed = first.joined or self._is_comma_list(first, second)
                return AMBIGUOUS if listed and not second.rejected else mention.letter
            if not first.joined and not is_own_text(self.text, first, second):
                break
        return mention.letter

    def _other_hedged(self, mention: Mention) -> bool:
        """Whether another option is called possible too, and none of its mentions rejects it."""
        rejected = {each.letter for each in self.mentions if each.rejected}
        others = (each for each in self.mentions if each.hedged and each.letter != mention.letter)
        return any(self._counts(each) and each.letter not in rejected for each in others)

    def _is_comma_list(self, first: Mention, second: Mention) -> bool:
        """Whether two options are all that a clause names: "A, C" and its end."""
        between, after = self.text[first.end : second.begin], self.text[second.end : second.end + 3]
        return (
            len(between) <= 4 and not between.strip(" ,;()[]") and re.match(r"[)\]]?\s?(?:[.,\n]|$)", after) is not None
        )

    def _next(self, begin: int) -> Mention | None:
        at = bisect_left(self._begins, begin)
        return self.mentions[at] if at < len(self.mentions) else None

    def _first_kept(self, begin: int, end: int) -> Mention | None:
        """The first mention between two positions that is neither rejected nor asked about."""
        for at in range(bisect_left(self._begins, begin), bisect_left(self._begins, end)):
            if not self.mentions[at].rejected and not self.mentions[at].asked:
                return self.mentions[at]
        return None

    def _is_edge(self, mention: Mention) -> bool:
        """Whether a letter begins or ends a sentence, or a conclusion leads up to it."""
        if mention.letter in "AI" and _PHRASE.match(self.text, mention.end):
            return False
        if self._is_named_thing(mention):
            return False
        before, after = self.text[max(0, mention.begin - 2) : mention.begin], self.text[mention.end : mention.end + 2]
        return (
            not before.strip(" \n") or before.rstrip()[-1:] in ".!?\n,:;" or not after.strip() or after[:1] in ".!\n,;"
        )
