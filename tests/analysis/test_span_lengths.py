"""A model that ends its spans itself is measured on answers of one length, with spans of exactly that length."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mirage_core.analysis.collect import CleanRun, collect, most_frequent_length
from mirage_core.analysis.explain_question import explain_question
from mirage_core.analysis.intervened_generation import InterventionRunner
from mirage_core.analysis.lens.collect import collect_lens, with_shown_answers
from mirage_core.analysis.measures.image_ablation import feed_latents
from mirage_core.analysis.measures.interventions import interventions
from mirage_core.analysis.results import ImageAccess
from mirage_core.analysis.subjects import clean_answers, select_subjects
from mirage_core.config import Settings
from mirage_core.pipeline.diagnose import select_measures
from mirage_core.pipeline.stages.measure import collect_identity
from tests.analysis import toys

PROBLEMS = [toys.toy_problem(1000 + at) for at in (*range(24), 25, 28)]  # letters A and B 8 times, C 10 times


@pytest.fixture(scope="module")
def runner() -> InterventionRunner:
    settings = toys.toy_settings("latent_only", length="frames", views=["present"], noise_scales=[8.0])
    return InterventionRunner(toys.trained("latent_only", steps=60, length="frames"), settings)


@pytest.fixture(scope="module")
def run(runner: InterventionRunner) -> CleanRun:
    return collect(runner, PROBLEMS, toys.quiet)


def with_length(runner: InterventionRunner, length: int) -> tuple[InterventionRunner, Settings]:
    analysis = runner.settings.analysis.model_copy(update={"span_latents": length})
    settings = runner.settings.model_copy(update={"analysis": analysis})
    return InterventionRunner(runner.loaded, settings), settings


def test_the_toy_ends_its_spans_itself(runner: InterventionRunner) -> None:
    answers = runner.generate(PROBLEMS)
    lengths = {problem.answer: [] for problem in PROBLEMS}  # type: dict[str, list[int]]
    for problem, answer in zip(PROBLEMS, answers, strict=True):
        assert answer.latents is not None
        lengths[problem.answer].append(len(answer.latents))
    assert lengths == {"A": [1] * 8, "B": [2] * 8, "C": [3] * 10}
    assert sum(answer.score.correct for answer in answers) == len(PROBLEMS)


def test_answers_of_the_most_frequent_length_are_measured_or_of_the_one_that_is_asked_for(
    runner: InterventionRunner, run: CleanRun
) -> None:
    assert run.num_latents == 3
    assert [problem.answer == "C" for problem in PROBLEMS] == run.has_span.tolist()
    other = collect(with_length(runner, 2)[0], PROBLEMS, toys.quiet)
    assert other.num_latents == 2 and [problem.answer == "B" for problem in PROBLEMS] == other.has_span.tolist()
    none = collect(with_length(runner, 4)[0], PROBLEMS, toys.quiet)
    assert none.num_latents == 0 and not bool(none.has_span.any())


def test_the_larger_of_two_frequent_lengths_counts() -> None:
    spans = [torch.zeros(length, 4) for length in (1, 3, 1, 2, 3)]
    assert most_frequent_length([*spans, None]) == 3 and most_frequent_length([None]) == 0


def test_own_latents_in_a_span_of_forced_length_give_the_clean_answers(
    runner: InterventionRunner, run: CleanRun
) -> None:
    exact = runner.of_length(run.num_latents)
    assert exact.num_latents == 3 and exact.of_length(2) is exact and runner.of_length(0) is runner
    subjects = select_subjects(exact, run, PROBLEMS)
    again = subjects.run(exact, feed_latents(exact, ImageAccess.FULL, subjects.latents))
    for was, now in zip([each for each in clean_answers(run) if each.latents is not None], again, strict=True):
        assert was.prediction.output == now.prediction.output == "<latents:3>\\boxed{C}"
        assert was.first_token is not None and now.first_token is not None
        torch.testing.assert_close(was.first_token, now.first_token, atol=1e-4, rtol=1e-4)


def test_the_effect_of_latents_is_found_in_spans_of_one_length(runner: InterventionRunner, run: CleanRun) -> None:
    exact = runner.of_length(run.num_latents)
    result = interventions(exact, run, PROBLEMS, runner.settings.analysis, toys.quiet)
    assert (result.header.used, result.header.num_latents) == (10, 3)
    assert "16 of 26 answers have no first span of 3 latents and are left out." in result.header.notes
    changes = {each.name: each for each in result.runs}
    assert changes["own"].accuracy.value == 1.0 and (changes["noise"].accuracy.value or 0.0) < 1.0
    # the one colour of spans of three latents: no donor has another answer
    assert changes["swap"].changed.n == 0 or changes["swap"].changed.value is None


def test_an_answer_with_more_spans_than_one_is_no_subject(
    runner: InterventionRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = InterventionRunner.generate

    def twice(self: InterventionRunner, *args: object, **options: object) -> list[object]:
        answers = generate(self, *args, **options)  # type: ignore[arg-type]
        two = replace(answers[1].prediction, spans=answers[1].prediction.spans * 2)
        return [answers[0], replace(answers[1], prediction=two), *answers[2:]]

    monkeypatch.setattr(InterventionRunner, "generate", twice)
    assert PROBLEMS[1].answer == "C" and not bool(collect(runner, PROBLEMS, toys.quiet).has_span[1])


def test_the_lens_and_one_question_read_spans_of_their_own_length(runner: InterventionRunner, run: CleanRun) -> None:
    lens = collect_lens(runner.loaded, runner.settings, run, PROBLEMS, {})
    assert (lens.used, lens.num_latents) == (10, 3)
    shown = with_shown_answers(lens, runner, runner.settings, run, PROBLEMS, PROBLEMS[:3], {}).shown
    assert [(answer.output, len(answer.latents)) for answer in shown] == [("<latents:3>\\boxed{C}", 3)]
    question = explain_question(
        runner, runner.settings, PROBLEMS[0], PROBLEMS[1:], model="toy", asked="", auxiliary=None, judged=True
    )
    assert question.num_latents == 2 and question.others == 7 and len(question.latents) == 2
    own = [each for each in question.runs if each.name == "permute"]
    assert [len(each.answers) for each in own] == [7, 7]


def test_measures_of_latents_are_not_refused_and_older_runs_keep_their_fingerprints() -> None:
    settings = toys.toy_settings(length="frames")
    assert "film" in select_measures(settings, "film", ())
    assert "span_latents" not in collect_identity(settings)["analysis"]
    assert "spans" in collect_identity(settings) and "spans" not in collect_identity(toys.toy_settings())
    chosen = settings.model_copy(update={"analysis": settings.analysis.model_copy(update={"span_latents": 3})})
    assert collect_identity(chosen)["analysis"]["span_latents"] == 3
