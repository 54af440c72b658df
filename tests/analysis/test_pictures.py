"""Figures go by picture: several questions on one picture are no independent observations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom

from mirage_core.analysis.bootstrap import bootstrap_mean, effective_count, jackknife, resample_weights, share
from mirage_core.analysis.donors import NO_DONOR, assign_donors, derangement
from mirage_core.analysis.intervened_generation import GeneratedAnswer
from mirage_core.analysis.measures.intervention_effect import RunLabel, compare
from mirage_core.analysis.measures.probes import _shuffles, probes
from mirage_core.analysis.results import ImageAccess
from mirage_core.analysis.verdict import derive_verdict, probe_p
from mirage_core.config import AnalysisSettings
from mirage_core.evaluation.pictures import picture_units
from mirage_core.types import Prediction, Problem, Score
from tests.analysis.fake_runs import run

SETTINGS = AnalysisSettings(resamples=200, shuffles=19)


def asked(name: str, *images: bytes, answer: str = "A", group: str = "g") -> Problem:
    return Problem(
        id=name, benchmark="sat", split="test", group=group, question="<image>", images=images, answer=answer
    )


def test_problems_that_share_a_picture_through_others_are_one_unit() -> None:
    problems = [
        asked("a", b"1"), asked("b", b"2"), asked("c", b"3", b"1"), asked("d", b"2", b"4"), asked("e"), asked("f"),
        asked("g", b"4", b"5"),
    ]  # fmt: skip
    assert picture_units(problems).tolist() == [0, 1, 0, 1, 2, 3, 1]


@pytest.mark.parametrize("questions", [2, 4])
def test_states_that_know_only_which_picture_it_is_carry_nothing(questions: int) -> None:
    """The fault: folds over questions read a picture's facts with 64 % (two questions) and 100 % (four)."""
    generator, pictures = np.random.default_rng(3), 60
    letters = generator.integers(0, 3, pictures)
    problems = [
        asked(f"q{at}-{order}", f"picture {at}".encode(), answer="ABC"[letters[at]])
        for at in range(pictures)
        for order in range(questions)
    ]
    names = np.repeat(4 * generator.normal(size=(pictures, 64)), questions, axis=0)
    latents = torch.from_numpy(names + 0.1 * generator.normal(size=names.shape)).float()[:, None]
    result = probes(run(problems, latents), problems, SETTINGS)
    found = next(each for each in result.probes if each.states == "latents" and each.fact == "sat: answer")
    assert found.accuracy.value is not None
    assert found.accuracy.value < 0.5
    assert (found.test, found.pictures) == (pictures * questions, pictures)
    assert found.p_value > 0.05
    verdict = derive_verdict(None, result)
    assert verdict.edges[0].outcome != "yes"


def test_shuffled_labels_move_with_their_picture() -> None:
    """States of pictures alone, labels of pictures: the p-value must be uniform, so it is rarely below .06."""
    low = 0
    for seed in range(30):
        generator = np.random.default_rng(seed)
        letters = generator.integers(0, 2, 24)
        problems = [
            asked(f"q{at}-{n}", bytes([at + 1]), answer="AB"[letters[at]]) for at in range(24) for n in range(4)
        ]
        states = np.repeat(generator.normal(size=(24, 3)), 4, axis=0)
        result = probes(run(problems, torch.from_numpy(states).float()[:, None]), problems, SETTINGS)
        low += next(each.p_value for each in result.probes if each.states == "latents") <= 0.06
    assert low <= binom.ppf(0.999, 30, 0.06)


def test_labels_of_a_picture_are_shuffled_together() -> None:
    units, groups = np.arange(24) // 4, ["g"] * 12 + ["h"] * 12
    orders = _shuffles(groups, 20, 0, units)
    for order in orders:
        donors = units[order].reshape(6, 4)
        assert (donors == donors[:, :1]).all(), "a picture's labels come from one other picture"
        assert sorted(order.tolist()) == list(range(24))
        assert all((at < 12) == (source < 12) for at, source in enumerate(order.tolist()))
    assert len({tuple(order.tolist()) for order in orders}) > 10


def test_the_p_value_of_a_verdict_counts_pictures() -> None:
    letters = [asked(f"q{at}", bytes([at // 4 + 1]), answer="AB"[at // 4 % 2]) for at in range(80)]
    states = torch.from_numpy(np.random.default_rng(0).normal(size=(80, 3))).float()[:, None]
    found = next(each for each in probes(run(letters, states), letters, SETTINGS).probes if each.states == "latents")
    known = found.model_copy(update={"accuracy": found.accuracy.model_copy(update={"value": 0.75}), "majority": 0.6})
    assert (known.test, known.pictures) == (80, 20)
    assert probe_p(known) == pytest.approx(binom.sf(14, 20, max(0.6, known.shuffled.value or 0.0)))


def test_without_shared_pictures_nothing_changes() -> None:
    alone, values = np.arange(50), np.random.default_rng(0).random(50)
    assert bootstrap_mean(values, 100, 1, alone) == bootstrap_mean(values, 100, 1)
    assert np.array_equal(resample_weights(50, 9, 1, alone), resample_weights(50, 9, 1))
    assert share(values > 0.5, alone) == share(values > 0.5)
    assert np.array_equal(derangement(["x"] * 50, 2, alone), derangement(["x"] * 50, 2))

    def mean(chosen: np.ndarray) -> float:
        return float(values[chosen].mean())

    assert jackknife(mean, 50, 1, alone) == jackknife(mean, 50, 1)


def test_copies_of_an_instance_do_not_narrow_an_interval() -> None:
    hits = np.random.default_rng(1).random(40) < 0.6
    copied, units = np.repeat(hits, 4), np.repeat(np.arange(40), 4)
    once, often = share(hits), share(copied, units)
    assert (often.value, often.n) == (once.value, 160)
    assert often.low == pytest.approx(once.low, abs=0.01)
    assert often.high == pytest.approx(once.high, abs=0.01)
    assert effective_count(copied.astype(float), units) == pytest.approx(39, abs=1.1)
    values = hits.astype(float)
    mean_once, mean_often = bootstrap_mean(values, 500, 3), bootstrap_mean(np.repeat(values, 4), 500, 3, units)
    assert mean_often.low == pytest.approx(mean_once.low, abs=0.03)
    assert share([True] * 8, np.repeat([0, 1], 4)).low == share([True, True]).low


def answer(name: str, correct: bool) -> GeneratedAnswer:
    prediction = Prediction(
        problem_id=name, benchmark="sat", group="g", method="m", output="A", token_ids=(), spans=(), finished=True
    )
    return GeneratedAnswer(
        prediction=prediction,
        score=Score(problem_id=name, parsed="A", correct=correct, rule="r"),
        first_token=None,
        latents=None,
    )


def test_a_change_is_tested_by_picture() -> None:
    names = [f"q{at}" for at in range(40)]
    clean = [answer(name, True) for name in names]
    patched = [answer(name, at >= 8) for at, name in enumerate(names)]  # all of two pictures of four questions fail
    label, units = RunLabel(name="zero", seen=ImageAccess.FULL), np.arange(40) // 4
    by_question = compare(label, clean, patched, SETTINGS)
    by_picture = compare(label, clean, patched, SETTINGS, units=units)
    assert by_question.p_value == pytest.approx(2 / 2**8)
    assert by_picture.p_value == pytest.approx(0.5)
    assert by_picture.change.value == pytest.approx(by_question.change.value)
    assert by_picture.change.high is not None and by_picture.change.high >= 0 > (by_question.change.high or 0)


@pytest.mark.parametrize("sizes", [[2, 2, 2], [1, 3, 1, 1], [5, 1], [4], [1, 1, 1, 2, 2]])
def test_no_instance_gets_the_latents_of_its_own_picture(sizes: list[int]) -> None:
    units = np.repeat(np.arange(len(sizes)), sizes)
    strata = ["x"] * len(units)
    donors = derangement(strata, 0, units)
    served = donors != NO_DONOR
    assert served.sum() == min(len(units), 2 * (len(units) - max(sizes)))
    assert (units[donors[served]] != units[served]).all()
    assert len(set(donors[served].tolist())) == served.sum()
    suited = assign_donors(strata, lambda recipient, donor: True, 0, units)
    assert all(donor == NO_DONOR or units[donor] != units[at] for at, donor in enumerate(suited.tolist()))
