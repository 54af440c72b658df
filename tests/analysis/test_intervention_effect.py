"""The figures of a run, counted by hand; chance; and natural effects from constructed outcomes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mirage_core.analysis.donors import NO_DONOR
from mirage_core.analysis.intervened_generation import GeneratedAnswer
from mirage_core.analysis.measures.intervention_effect import Patching, RunLabel, compare
from mirage_core.analysis.measures.mediation import effects
from mirage_core.analysis.measures.only_latents import chance_baselines, majority_accuracy
from mirage_core.benchmarks.judge import judge
from mirage_core.config import AnalysisSettings
from mirage_core.evaluation.statistics import mcnemar_p, paired_interval
from mirage_core.types import Prediction, Problem
from tests.analysis import fake_runs, toys

SETTINGS = AnalysisSettings(resamples=100)
PROBLEMS = toys.toy_problems(6)  # answers ABCABC, groups in turn


def answers(letters: str, certain: bool = True) -> list[GeneratedAnswer]:
    generated = []
    for problem, letter in zip(PROBLEMS, letters, strict=True):
        prediction, score = fake_runs.answer(problem, letter)
        first = torch.full((3,), 0.05).log()
        first["ABC".index(letter)] = np.log(0.9)
        generated.append(GeneratedAnswer(prediction=prediction, score=score, first_token=first if certain else None))
    return generated


def right(problem: Problem, prediction: Prediction) -> bool:
    return judge(problem, prediction, "mirage").correct


LETTERS = "".join(problem.answer for problem in PROBLEMS)


def test_a_run_counts_changes_falls_and_divergence() -> None:
    other = {"A": "B", "B": "C", "C": "A"}
    here = LETTERS[:4] + other[LETTERS[4]] + other[LETTERS[5]]
    run = compare(RunLabel(name="zero", seen="present"), answers(LETTERS), answers(here), SETTINGS)
    assert (run.n, run.accuracy.value, run.clean_accuracy) == (6, pytest.approx(4 / 6), 1.0)
    assert (run.only_clean, run.only_here) == (2, 0) and run.p_value == mcnemar_p(0, 2)
    assert run.change.value == pytest.approx(-2 / 6)
    assert (run.change.low, run.change.high) == paired_interval(4, 0, 2, 0)
    assert run.changed.value == pytest.approx(2 / 6) and run.unparsed.value == 0
    apart = 0.9 * np.log(0.9 / 0.05) + 0.05 * np.log(0.05 / 0.9)
    assert run.kl.value == pytest.approx(apart * 2 / 6, rel=1e-4)


def test_answers_that_follow_the_donor_are_counted_and_those_without_one_left_out() -> None:
    donors = np.array([1, 2, 3, 4, 5, NO_DONOR])
    here = LETTERS[1:] + LETTERS[5]
    run = compare(
        RunLabel(name="swap", seen="cut", way="states"), answers(LETTERS), answers(here), SETTINGS,
        patching=Patching(PROBLEMS, donors, right),
    )  # fmt: skip
    assert run.n == 5 and run.follow is not None and run.follow.value == 1 and run.accuracy.value == 0
    assert run.follow_clean is not None and run.follow_clean.value == 0 and run.way == "states"


def test_without_first_tokens_there_is_no_divergence() -> None:
    run = compare(RunLabel(name="own", seen="present"), answers(LETTERS, False), answers(LETTERS), SETTINGS)
    assert run.kl.value is None and run.kl.n == 0


def test_chance_is_what_one_answer_or_another_problems_answer_gives() -> None:
    assert majority_accuracy(PROBLEMS, right) == pytest.approx(1 / 3)
    clean = [answer.prediction for answer in answers(LETTERS)]
    rows = {row.group: row for row in chance_baselines(PROBLEMS, clean, right, SETTINGS)}
    assert set(rows) == {"level-3", "level-4", "all"} and rows["all"].n == 6
    assert rows["all"].shuffled.value == pytest.approx(1 / 5), "one of five others has the same answer"
    assert rows["level-3"].shuffled.value == 0


def outcomes(**cells: float) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    names = {"oo": ("own", "own"), "xo": ("other", "own"), "oz": ("own", "other"), "xz": ("other", "other")}
    noise = np.random.default_rng(0).normal(0, 0.01, size=50)
    return {names[name]: {"accuracy": value + noise} for name, value in cells.items()}


def test_effects_are_total_direct_and_indirect_and_what_they_share() -> None:
    (result,) = effects(outcomes(oo=0.9, xo=0.7, oz=0.4, xz=0.1), SETTINGS)  # type: ignore[arg-type]
    values = (result.total.value, result.direct.value, result.indirect.value, result.interaction.value)
    assert values == pytest.approx((-0.8, -0.2, -0.5, -0.1)) and result.share == pytest.approx(0.625)
    (none,) = effects(outcomes(oo=0.5, xo=0.5, oz=0.5, xz=0.5), SETTINGS)  # type: ignore[arg-type]
    assert none.total.value == 0 and none.share is None, "no share of an effect that is not there"
