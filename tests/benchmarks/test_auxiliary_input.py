"""The auxiliary picture as one more input: the prompt says which picture is which, in every form."""

from __future__ import annotations

import pytest

from mirage_core import benchmarks
from mirage_core.benchmarks.auxiliary_input import has_auxiliary_input, labelled, with_auxiliary_input
from mirage_core.benchmarks.generate import generate_problems
from mirage_core.config import BenchmarkData, ProblemSettings
from mirage_core.types import Problem


def planning() -> Problem:
    data = BenchmarkData(train_levels=(3,), test_levels=(3,), train=1, validation=0, test_per_level=0)
    (problem,) = generate_problems(ProblemSettings(vsp_planning=data, vsp_reasoning=None), 1, lambda event: None)
    return problem


def test_the_picture_comes_last_and_the_problem_stays_what_it_is() -> None:
    problem = planning()
    shown = with_auxiliary_input(problem, b"drawn")

    assert shown.images == (*problem.images, b"drawn")
    assert (shown.id, shown.answer, shown.question) == (problem.id, problem.answer, problem.question)
    assert has_auxiliary_input(shown) and not has_auxiliary_input(problem)
    assert benchmarks.get("vsp-planning").score(shown, f"\\boxed{{{problem.answer}}}").correct


def test_the_short_form_stays_short() -> None:
    problem = planning()
    ask = benchmarks.get("vsp-planning").prompt

    assert ask(problem, "short", "direct") == "<image>\nPlan:"
    assert ask(with_auxiliary_input(problem, b"drawn"), "short", "direct") == (
        "Picture 1: <image>\nPicture 2, an auxiliary picture: <image>\nPlan:"
    )


def test_the_benchmarks_own_words_stay_round_the_pictures() -> None:
    problem = planning()
    ask = benchmarks.get("vsp-planning").prompt
    plain, shown = ask(problem, "benchmark", "cot"), ask(with_auxiliary_input(problem, b"drawn"), "benchmark", "cot")
    before, after = plain.split("<image>")

    assert shown == f"{before}Picture 1: <image>\nPicture 2, an auxiliary picture: <image>{after}"


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Which piece? <image> A <image> B <image> ?",
         "Which piece? Picture 1: <image> A Picture 2: <image> B Picture 3: <image>\n"
         "Picture 4, an auxiliary picture: <image> ?"),
        ("No picture.", "Picture 1, an auxiliary picture: <image>\nNo picture."),
    ],
)  # fmt: skip
def test_every_picture_is_numbered(question: str, expected: str) -> None:
    assert labelled(question) == expected
