"""What a request asks of its spans, and thoughts apart from the answer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mirage_vllm.requests import row_options
from mirage_vllm.spans import NO_LIMIT, RowOptions
from mirage_vllm.thoughts import ThoughtSplitter, split

from mirage_core.serving.texts import ThoughtSplitter as ServedSplitter


def params(temperature: float = 1.0, grammar: object = None, **extra: object) -> Any:
    return SimpleNamespace(temperature=temperature, structured_outputs=grammar, extra_args=extra or None)


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        (params(), RowOptions()),
        (params(0.0, latents="off"), RowOptions(imagines=False, temperature=0.0)),
        (params(latents="on", max_text_tokens=5, other=3), RowOptions(max_text_tokens=5)),
        (params(grammar=object()), RowOptions(imagines=False)),
        (None, RowOptions()),
    ],
)
def test_options_are_those_that_were_asked_for(asked: Any, options: RowOptions) -> None:
    assert row_options(asked) == (options, None)
    assert NO_LIMIT > 1 << 62


@pytest.mark.parametrize("wrong", [{"latents": "of"}, {"latents": 0}, {"max_text_tokens": 0}, {"max_text_tokens": "5"}])
def test_a_wrong_argument_ends_the_answer_at_once_and_is_named(wrong: dict[str, object]) -> None:
    options, fault = row_options(params(**wrong))
    assert options.max_text_tokens == 0
    assert fault is not None and next(iter(wrong)) in fault


PIECES = st.lists(
    st.sampled_from(["<", "<think", "<think>", "</think>", "</th", "ink>", "a", " b\n", ">"]), max_size=12
)


@given(PIECES)
def test_thoughts_are_split_as_mirage_serve_splits_them(pieces: list[str]) -> None:
    served = ServedSplitter()
    parts = [part for piece in pieces for part in served.add(piece)] + served.flush()
    expected = tuple("".join(part.text for part in parts if part.thought == thought) for thought in (True, False))
    ours = ThoughtSplitter()
    found = [ours.add(piece) for piece in pieces] + [ours.flush()]
    assert ("".join(part.thoughts for part in found), "".join(part.answer for part in found)) == expected
    whole = split("".join(pieces))
    assert (whole.thoughts, whole.answer) == expected


def test_nothing_of_a_tag_is_shown_before_it_is_certain() -> None:
    splitter = ThoughtSplitter()
    assert splitter.add("so <thi").answer == "so "
    assert splitter.add("nk>left").thoughts == "left"
