"""Every reader of answers takes time linear in the answer: a model that repeats itself must not stop an evaluation."""

from __future__ import annotations

import pytest

from mirage_core.benchmarks import tablevqa
from mirage_core.benchmarks.custom import jsonl_data
from mirage_core.benchmarks.reading import earlier
from mirage_core.benchmarks.reading.letters import read_letter
from mirage_core.benchmarks.reading.moves import read_moves
from mirage_core.types import Problem

MATERIALS = {"A": "rubber", "B": "cotton", "C": "kevlar", "D": "leather"}
ADVERSARIAL = (
    "\\boxed{",
    "\\boxed{x}",
    "The answer\n",
    "answer is A or ",
    "A, ",
    "(A) ",
    "not ",
    "<think>",
    "<answer>",
    "\n",
    "*",
    "rubber, ",
    "\\text{",
    "plan: ",
    "->",
    "so ",
    "I would ",
    "A1: ",
    "Q1: ",
    "A.B ",
    "first A, then B, ",
    "could be A ",
    "maybe ",
    "red and blue ",
    "D_R ",
    "下右",
    "1.D",
)
OF_MOVES = ("plan: ", "->", "\\boxed{", "\n", "D_R ", "下右", "1.D")
OF_WORDS = (
    "\\boxed{",
    "$",
    "The answer\n",
    "answer is no\n",
    "whether ",
    "is not ",
    "isn't",
    "1,000",
    ". ",
    "[1]",
    "*",
    "'.",
)


@pytest.mark.parametrize("piece", ADVERSARIAL)
def test_a_megabyte_is_read_in_linear_time(piece):
    """A quadratic pattern would need hours for this text: seconds for a thousandth of it are what was seen."""
    text = (piece * (1_000_000 // len(piece) + 1))[:1_000_000]
    assert read_letter(text + "\n\\boxed{B}", MATERIALS) in ("B", None)
    assert read_letter(text, MATERIALS) in ("A", None)
    if piece in OF_MOVES:
        read_moves(text)


@pytest.mark.parametrize("piece", OF_WORDS)
def test_a_megabyte_of_words_is_read_in_linear_time(piece):
    text = piece * (1_000_000 // len(piece))
    assert not jsonl_data.score(in_words("own", "cotton"), text).correct
    for rule in ("tablevqa", "official"):
        for part, answer in (("vwtq", "cotton"), ("vtabfact", "true"), ("fintabnetqa", "5%")):
            assert not tablevqa.score(in_words(part, answer), text, rule).correct


def in_words(group, answer):
    name = "own" if group == "own" else "tablevqa"
    return Problem(id="p", benchmark=name, split="test", group=group, question="q", images=(), answer=answer, facts={})


def test_earlier_rules_are_linear_too():
    for text in ("The answer" + "\n" * 300_000, "\\boxed{" * 100_000):
        assert earlier.option_letter(text, MATERIALS) is None
        assert earlier.published_letter(text, MATERIALS) is None
