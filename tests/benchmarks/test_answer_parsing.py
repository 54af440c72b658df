"""Reading answers: boxes, letters, and what is no answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.benchmarks.answer_parsing import boxed, option_letter

OPTIONS = {"A": "Action Success.", "B": "Action Failed. Falling into a hole.", "C": "Player safe."}


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("so \\boxed{RRD}.", "RRD"),
        ("\\boxed{A} no, \\boxed{B}", "B"),
        ("\\boxed{\\text{R{R}}D}", "\\text{R{R}}D"),
        ("\\boxed{A} then \\boxed{RR", "A"),
        ("\\boxed{}", ""),
        ("\\boxed{RR", None),
        ("boxed{RR}", None),
        ("", None),
    ],
)
def test_the_last_complete_box_is_read(text, inside):
    assert boxed(text) == inside


@given(st.text())
def test_any_text_in_a_box_comes_back_when_its_braces_are_balanced(text):
    plain = text.replace("{", "").replace("}", "")
    assert boxed(f"I think \\boxed{{{plain}}}.") == plain.strip()


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("\\boxed{B}", "B"),
        ("\\boxed{b}", "B"),
        ("\\boxed{(C)}", "C"),
        ("\\boxed{A.}", "A"),
        ("\\boxed{\\text{B}}", "B"),
        ("\\boxed{A. Action Success.}", "A"),
        ("\\boxed{Action Success}", "A"),
        ("first (A), but no: (C)", "C"),
        ("\\boxed{42} that is (B)", "B"),
        ("The outcome: action failed, no. Falling into a hole", None),
        ("The outcome is: Player safe.", "C"),
        ("Action Success or Player safe", None),
        ("\\boxed{B or C}", None),
        ("\\boxed{D}", None),
        ("A", None),
        ("", None),
    ],
)
def test_the_letter_is_the_boxs_else_the_last_in_brackets_else_the_options_own_text(text, letter):
    assert option_letter(text, OPTIONS) == letter
