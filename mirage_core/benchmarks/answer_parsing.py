r"""What every reader of answers shares: thoughts and markup struck out, boxes found, texts made comparable.

Every function takes time linear in the text: a model that repeats itself must not stop an evaluation.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_BRACES = re.compile(r"\\f?boxed[ \t]?\{|[{}]")
_NAMES = "think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad|seed:think"
_THOUGHT = re.compile(
    rf"(?P<close></(?:{_NAMES})>|<\|end_of_thought\|>|\[/THINK\]|◁/think▷)"
    rf"|<(?:{_NAMES})>|<\|begin_of_thought\|>|\[THINK\]|◁think▷",
    flags=re.IGNORECASE,
)
_LATENTS = re.compile(r"<\|latent_(?:start|end|pad)\|>|<latents:\d{1,9}>|<(?:output_|auxiliary_)?image>")
_SPECIAL = re.compile(
    r"<\|[^<>|\n]{1,40}\|>|</?s>|<(?:eos|bos|pad|unk|end_of_turn|start_of_turn)>|<｜[^<>｜\n]{1,40}｜>|\[/?INST\]"
)
_ANSWER_TAG = re.compile(
    r"<(/?)(?:final_)?answer>|<\|(begin|end)_of_solution\|>|<\|(begin|end)_of_box\|>", re.IGNORECASE
)
_DRESS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathsf|mathit|mbox|emph|underline)\s?\{"
)
# Full-width forms of ASCII, and brackets and quotes that other scripts put around a letter.
_FORMS = {0xFF01 + at: 0x21 + at for at in range(94)} | {0x3000: 0x20, 0xA0: 0x20, 0xFEFF: None, 0x200B: None}
_FORMS |= str.maketrans("【】〔〕［］「」『』《》〈〉“”„«»‘’‚", '[][][]"""""""""""""\'\'\'')


def boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}`` (braces may nest), None if there is none."""
    return next(boxes(text), None)


def boxes(text: str) -> Iterator[str]:
    r"""The contents of all complete ``\boxed{...}`` that hold no other box, the last one first."""
    opened: list[tuple[int, bool]] = []
    found: list[tuple[int, int]] = []
    for brace in _BRACES.finditer(text):
        if brace.group() != "}":
            opened.append((brace.end(), brace.group() != "{"))
        elif opened:
            begin, is_box = opened.pop()
            if is_box and (not found or found[-1][0] < begin):
                found.append((begin, brace.start()))
    for begin, end in reversed(found):
        yield text[begin:end].strip()


def unclosed_box(text: str) -> str | None:
    r"""The text after the last ``\boxed{`` where its braces are never closed, None where no box is open at the end."""
    opened: list[tuple[int, bool]] = []
    for brace in _BRACES.finditer(text):
        if brace.group() != "}":
            opened.append((brace.end(), brace.group() != "{"))
        elif opened:
            opened.pop()
    begin = next((begin for begin, is_box in reversed(opened) if is_box), None)
    return None if begin is None else text[begin:].strip()


def box_or_its_begin(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}``, else what follows one that the text ends in; None: no box."""
    box = boxed(text)
    return unclosed_box(text) if box is None else box


def without_dress(text: str) -> str:
    r"""A text without LaTeX's dress: of ``\text{B}`` and ``\mathbf{B}`` B remains, of ``$B$`` and ``\(B\)`` too."""
    plain = _DRESS.sub("{", text).replace("\\(", "(").replace("\\)", ")").replace("\\[", "[").replace("\\]", "]")
    return re.sub(r"\\[,;:! ]|[${}]", " ", plain)


def nfc(text: str) -> str:
    """A text in Unicode's composed form, with full-width characters, brackets and quotes as in ASCII."""
    return unicodedata.normalize("NFC", text).translate(_FORMS)


def normalized_text(text: str) -> str:
    """A text composed (NFC), in lower case, without extra spaces and final full stop, for comparison."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split()).rstrip(". ")


def after_thought(output: str) -> str:
    """The output after its last thought, as ``published-letter`` and ``mme-realworld`` have always taken it."""
    return output.rpartition("</think>")[2].strip()


def final_answer(output: str) -> str:
    """An output as its reader finally gets it: without thoughts, latents, special tokens, and answer tags.

    A thought that is never closed goes to the end; one that was opened in the prompt begins at the start. What follows
    the last thought is the answer; if nothing does, what stands around the thoughts is.
    """
    text = _SPECIAL.sub(" ", _in_answer_tag(_LATENTS.sub(" ", _without_thoughts(output))))
    return text.strip()


def _without_thoughts(output: str) -> str:
    kept, begin, depth = [], 0, 0
    for tag in _THOUGHT.finditer(output):
        if tag.group("close") is None:
            if depth == 0:
                kept.append(output[begin : tag.start()])
            depth += 1
            continue
        if depth == 0:  # opened in the prompt: all of it so far was thought
            kept.clear()
        depth, begin = 0, tag.end()
    last = "" if depth else output[begin:]
    return last if last.strip() else " ".join(kept)


def _in_answer_tag(text: str) -> str:
    """The content of the last answer tag that has any, the whole text without such a tag."""
    begin, found = None, None
    for tag in _ANSWER_TAG.finditer(text):
        if tag.group(1) == "/" or "end" in tag.groups():
            if begin is not None and text[begin : tag.start()].strip():
                found = (begin, tag.start())
            begin = None
        else:
            begin = tag.end()
    if begin is not None and text[begin:].strip():
        found = (begin, len(text))
    return text[found[0] : found[1]] if found else _ANSWER_TAG.sub(" ", text)
