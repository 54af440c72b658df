"""Which answers of a served model differ from the stored ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mirage_core.errors import DataError
from mirage_core.evaluation.agreement import Difference, differences, spread, stored_answers
from mirage_core.types import LatentSpan, Prediction, Score


def answer(problem: str, **more: Any) -> Prediction:
    fields = {
        "output": "<latents:2>R",
        "token_ids": (7, 8, 9),
        "spans": (LatentSpan(position=1, num_latents=2),),
        "finished": True,
    }
    return Prediction(
        problem_id=problem, benchmark="vsp-planning", group="level-3", method="stage-2", **{**fields, **more}
    )


STORED = {name: answer(name) for name in "abcde"}


def test_answers_that_are_the_same_agree_whatever_their_method_is_called() -> None:
    assert differences(STORED, [replace(answer("a"), method="another", sample=0), answer("c")]) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("output", "<latents:2>L"),
        ("spans", (LatentSpan(position=1, num_latents=3),)),
        ("token_ids", (7, 8)),
        ("finished", False),
    ],
)
def test_every_field_of_an_answer_counts_and_is_named(field: str, value: Any) -> None:
    found = [answer("a"), answer("b", **{field: value})]
    output = value if field == "output" else "<latents:2>R"
    assert differences(STORED, found) == [Difference("b", field, "<latents:2>R", output)]


def test_a_problem_without_a_stored_answer_is_an_error() -> None:
    with pytest.raises(DataError, match="no answer to z"):
        differences(STORED, [answer("z")])


def test_of_several_samples_the_first_is_compared() -> None:
    score = Score(problem_id="a", correct=True, parsed="R", rule="mirage")
    scored = [(replace(answer("a"), sample=sample, output=str(sample)), score) for sample in (1, 0, 2)]
    assert stored_answers(scored)["a"].output == "0"


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (4, [0, 2, 5, 7]), (10, list(range(10))), (99, list(range(10)))]
)
def test_problems_are_spread_evenly(count: int, expected: list[int]) -> None:
    assert spread(range(10), count) == expected
