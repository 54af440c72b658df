"""Text that arrives piece by piece: characters, stop words and thoughts."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mirage_core.serving.texts import Detokenizer, StopWords, ThoughtSplitter

Cuts = st.lists(st.integers(0, 60), max_size=8)


def parts(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[begin:end] for begin, end in pairwise(places)]


@given(
    st.text(alphabet="ab<", max_size=40), st.lists(st.text(alphabet="ab<", min_size=1, max_size=4), max_size=3), Cuts
)
def test_text_ends_before_the_first_stop_word_however_it_is_cut(text: str, words: list[str], cuts: list[int]) -> None:
    stop, found = StopWords(words), ""
    for part in parts(text, cuts):
        found += stop.add(part)
        assert not any(word in found for word in words)
    found += stop.flush()
    places = [text.find(word) for word in words if word in text]
    assert stop.stopped == bool(places)
    assert text.startswith(found)
    if places:
        assert not any(word in found for word in words)
    else:
        assert found == text


def test_text_is_not_held_back_longer_than_it_could_be_a_stop_word() -> None:
    stop = StopWords(["END"])
    assert [stop.add(part) for part in ("a", "E", "N", "x", "EN", "D!")] == ["a", "", "", "ENx", "", ""]
    assert stop.stopped and stop.add("more") == "" and stop.flush() == ""


@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "think>", "x", " "]), max_size=10), Cuts)
def test_thoughts_are_the_same_however_the_text_is_cut(words: list[str], cuts: list[int]) -> None:
    def split(pieces: list[str]) -> tuple[str, str]:
        splitter = ThoughtSplitter()
        found = [piece for part in pieces for piece in splitter.add(part)] + splitter.flush()
        return (
            "".join(one.text for one in found if one.thought),
            "".join(one.text for one in found if not one.thought),
        )

    text = "".join(words)
    assert split(parts(text, cuts)) == split([text])


def test_thoughts_stand_apart_from_the_answer() -> None:
    splitter = ThoughtSplitter()
    pieces = splitter.add("<think>one</think> so <think>two</think>\\boxed{B} <thin")
    assert [(piece.text, piece.thought) for piece in pieces + splitter.flush()] == [
        ("one", True),
        (" so ", False),
        ("\n\n", True),
        ("two", True),
        ("\\boxed{B} ", False),
        ("<thin", False),
    ]


@given(st.text(max_size=20), st.booleans())
def test_characters_of_several_tokens_come_when_they_are_whole(text: str, cut: bool) -> None:
    detokenizer = Detokenizer(lambda ids: bytes(ids).decode("utf-8", errors="replace"))
    data = text.encode()[: -1 if cut and text else None]
    found = [detokenizer.add(byte) for byte in data]
    assert "".join(found) + detokenizer.flush() == data.decode("utf-8", errors="replace")
