"""One question explained, of a model that reads its latents and of one that is deaf to them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from mirage_core.analysis.explain_question import CANNOT, Question, explain_question
from mirage_core.reports.diagnosis.question_page import headline, question_lines, render_question
from mirage_core.types import Problem
from tests.analysis import toys
from tests.reports.test_diagnosis_page import Tags


def asked(which: str, others: int = 5) -> tuple[Question, Problem]:
    """Number 1000 (B), with as many problems beside it."""
    runner, settings = toys.reader() if which == "reader" else toys.deaf()
    problem, *rest = toys.toy_problems(others + 1)
    question = explain_question(
        runner, settings, problem, rest, model="<b>model</b>", asked="Which?", auxiliary=problem.images[0], judged=True
    )
    return question, problem


@pytest.fixture(scope="module")
def reader() -> tuple[Question, Problem]:
    return asked("reader")


@pytest.fixture(scope="module")
def deaf() -> tuple[Question, Problem]:
    return asked("deaf")


def test_an_answer_that_comes_from_latents_becomes_the_donors(reader: tuple[Question, Problem]) -> None:
    question, problem = reader
    assert question.read == problem.answer and question.verdict == "right"
    patched = next(run for run in question.runs if run.name == "permute" and run.way == "vectors")
    others = [each.answer for each in toys.toy_problems(6)[1:]]
    assert list(patched.answers) == others
    assert patched.donors == sum(answer != problem.answer for answer in others)
    assert patched.same == others.count(problem.answer)
    assert patched.kl > 1.0
    assert "becomes the other problem's answer in" in headline(question)


def test_an_answer_that_owes_its_latents_nothing_stays(deaf: tuple[Question, Problem]) -> None:
    question, _ = deaf
    for run in question.runs:
        if run.seen == "present":
            assert run.same == len(run.answers), run.name
            assert run.kl == pytest.approx(0.0, abs=1e-4)


def test_every_change_is_tried_and_printed(reader: tuple[Question, Problem]) -> None:
    question, _ = reader
    names = [(run.name, run.seen) for run in question.runs]
    assert {"permute", "mean", "zero", "noise", "skip"} <= {name for name, seen in names if seen == "present"}
    assert ("own", "cut") in names and ("own", "hidden") in names
    printed = "\n".join(question_lines(question))
    assert "another problem's latents, vectors" in printed and "latent 1: head reads" in printed
    assert CANNOT[0] in printed


def test_the_page_needs_nothing_else_and_says_what_it_cannot_show(reader: tuple[Question, Problem]) -> None:
    question, problem = reader
    page = render_question(question, problem, problem.images[0])
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and all(address.startswith("data:image/") for address in tags.asked)
    assert "&lt;b&gt;model" in page and "<b>model" not in page
    assert "One answer says nothing about the next one" in page
    assert len(re.findall("the average latent</figcaption>", page)) == 4  # two latents over two images


def test_without_other_problems_nothing_is_exchanged_and_it_is_said() -> None:
    question, problem = asked("reader", others=0)
    assert question.others == 0 and {run.name for run in question.runs}.isdisjoint({"permute", "mean"})
    assert "no other problem's latents were available" in headline(question)
    assert "no other problem of its kind was available" in render_question(question, problem, None)


def test_an_answer_without_latents_is_not_explained_by_them() -> None:
    runner, settings = toys.reader()
    silent = toys.InterventionRunner(replace(runner.loaded, about={"stages": ["base", "text"]}), settings)
    problem = toys.toy_problems(1)[0]
    question = explain_question(silent, settings, problem, [], model="m", asked="?", auxiliary=None, judged=False)
    assert question.num_latents == 0 and question.latents == () and question.verdict == "unjudged"
    assert headline(question) == "This answer has no latents."
    assert "not judged" in render_question(question, problem, None)
