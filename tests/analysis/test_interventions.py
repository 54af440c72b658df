"""Experiments on latents find the effect in the model that has one, and none in the model that cannot have one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mirage_core.analysis.measures.image_ablation import feed_latents
from mirage_core.analysis.measures.interventions import interventions
from mirage_core.analysis.measures.mediation import mediation
from mirage_core.analysis.measures.only_latents import only_latents
from mirage_core.analysis.results import ImageAccess, InterventionsResult, Run, Way
from mirage_core.analysis.subjects import clean_answers, select_subjects
from tests.analysis import toys

PROBLEMS = toys.toy_problems()


@pytest.fixture(scope="module")
def reading() -> InterventionsResult:
    runner, settings = toys.reader()
    return interventions(runner, toys.clean("reader"), PROBLEMS, settings.analysis, toys.quiet)


@pytest.fixture(scope="module")
def unread() -> InterventionsResult:
    runner, settings = toys.deaf()
    return interventions(runner, toys.clean("deaf"), PROBLEMS, settings.analysis, toys.quiet)


def find_run(
    result: InterventionsResult,
    name: str,
    seen: ImageAccess = ImageAccess.FULL,
    way: Way | None = None,
    scale: float | None = None,
) -> Run:
    (match,) = [run for run in result.runs if (run.name, run.seen, run.way, run.scale) == (name, seen, way, scale)]
    return match


def test_both_toys_answer_rightly_with_a_span_each() -> None:
    for which in ("reader", "deaf"):
        clean_run = toys.clean(which)
        assert bool(clean_run.has_span.all()) and clean_run.latents.shape[1] == 2
        assert sum(score.correct for _, score in clean_run.scored) == len(PROBLEMS)


def test_own_latents_fed_again_from_the_span_on_give_the_clean_answers() -> None:
    runner, _ = toys.reader()
    clean_run = toys.clean("reader")
    subjects = select_subjects(runner, clean_run, PROBLEMS)
    again = subjects.run(runner, feed_latents(runner, ImageAccess.FULL, subjects.latents))
    for was, now in zip(clean_answers(clean_run), again, strict=True):
        assert was.text == now.text and was.prediction.output == now.prediction.output
        assert was.first_token is not None and now.first_token is not None
        torch.testing.assert_close(was.first_token, now.first_token, atol=1e-4, rtol=1e-4)


def test_behind_a_bottleneck_the_cut_is_reported_without_being_measured_and_is_what_it_would_be(
    reading: InterventionsResult,
) -> None:
    runner, settings = toys.reader()
    chosen = settings.analysis.model_copy(update={"views": ("cut",)})
    measured = interventions(runner, toys.clean("reader"), PROBLEMS, chosen, toys.quiet)
    reported = [run for run in reading.runs if run.seen == "cut"]
    assert len(reported) == len(measured.runs) > 10
    for copied, own in zip(reported, measured.runs, strict=True):
        assert copied.kl.value == pytest.approx(own.kl.value, abs=1e-4)
        assert copied.model_dump(exclude={"kl"}) == own.model_dump(exclude={"kl"})
    assert any("bottleneck" in note for note in reading.header.notes) and not measured.header.notes
    assert [dose.seen for dose in reading.dose] == ["present", "cut", "hidden"]


@pytest.mark.parametrize("way", ["vectors", "states"])
@pytest.mark.parametrize("seen", ["present", "cut", "hidden"])
def test_answers_of_the_reader_follow_the_donor_of_their_latents(
    reading: InterventionsResult, seen: ImageAccess, way: Way
) -> None:
    swapped = find_run(reading, "swap", seen, way)
    assert swapped.n == len(PROBLEMS) and swapped.accuracy.value == 0 and swapped.follow is not None
    assert swapped.follow.value == 1 and swapped.follow_clean is not None and swapped.follow_clean.value == 0
    assert swapped.change.high is not None and swapped.change.high < -0.8
    assert swapped.p_value is not None and swapped.p_value < 1e-6
    assert swapped.kl.low is not None and swapped.kl.low > 0.5
    permuted = find_run(reading, "permute", seen, way)
    assert permuted.follow is not None and permuted.follow.value == 1 and permuted.n == len(PROBLEMS)


def test_latents_without_their_instance_leave_the_reader_guessing(reading: InterventionsResult) -> None:
    for name in ("clamp", "mean", "zero", "noise-only", "skip"):
        run = find_run(reading, name)
        assert run.accuracy.value is not None and run.accuracy.value < 0.7, name
        assert run.changed.value == pytest.approx(1 - run.accuracy.value), name
    assert find_run(reading, "own", "hidden").accuracy.value == 1, "the latents alone are enough"


def test_noise_on_the_readers_latents_shows_a_dose_and_a_response(reading: InterventionsResult) -> None:
    (dose,) = [dose for dose in reading.dose if dose.seen == "present"]
    assert dose.scales == (0.0, 0.5, 2.0, 8.0) and dose.accuracy[0] == 1 and dose.kl[0] == 0
    assert dose.trend_p is not None and dose.trend_p < 1e-3 and dose.half_scale is not None and dose.half_scale > 0.1
    assert dose.kl[-1] is not None and dose.kl[-1] > 0.3


@pytest.mark.parametrize("seen", ["present", "cut", "hidden"])
def test_nothing_that_is_done_to_latents_moves_the_deaf_model(unread: InterventionsResult, seen: ImageAccess) -> None:
    runs = [run for run in unread.runs if run.seen == seen and run.name != "own"]
    assert len(runs) == 12
    for run in runs:
        assert run.change.value == 0 and run.p_value == 1 and run.changed.value == 0, run.name
        if seen == "cut":  # it sees nothing then, and opens no box
            assert run.kl.value is None or run.kl.value == pytest.approx(0, abs=1e-6)
        else:
            assert run.kl.value == pytest.approx(0, abs=1e-6) and run.kl.n == len(PROBLEMS)
        assert run.follow is None or run.follow == run.follow_clean
    (dose,) = [dose for dose in unread.dose if dose.seen == seen]
    assert dose.half_scale is None and dose.trend_p == 1 and dose.spearman is None


def test_the_deaf_model_answers_from_the_picture_and_without_it_not(unread: InterventionsResult) -> None:
    assert find_run(unread, "own").accuracy.value == 1
    for seen in ("cut", "hidden"):
        run = find_run(unread, "own", seen)
        assert run.accuracy.value is not None and run.accuracy.value < 0.7 and run.against == "present"


def test_answers_without_a_span_take_no_part() -> None:
    runner, settings = toys.reader()
    clean_run = toys.clean("reader")
    spans = clean_run.has_span.clone()
    spans[3:] = False
    few = settings.analysis
    result = only_latents(runner, replace(clean_run, has_span=spans), PROBLEMS, few, toys.quiet)
    assert (
        result.header.used == 3
        and f"{len(PROBLEMS) - 3} of {len(PROBLEMS)}" in result.header.notes[0]
        and result.runs[0].n == 3
    )
    none = replace(clean_run, has_span=torch.zeros_like(spans))
    empty = interventions(runner, none, PROBLEMS, few, toys.quiet)
    assert empty.runs == () and empty.header.used == 0 and empty.latent_std is None


@pytest.mark.parametrize("which", ["reader", "deaf"])
def test_mediation_puts_the_whole_effect_where_it_goes(which: str) -> None:
    runner, settings = toys.reader() if which == "reader" else toys.deaf()
    result = mediation(runner, toys.clean(which), PROBLEMS, settings.analysis, toys.quiet)
    assert [way.way for way in result.ways] == ["vectors", "states"]
    for way in result.ways:
        accuracy, probability, kl = way.effects
        assert (accuracy.outcome, probability.outcome, kl.outcome) == ("accuracy", "probability", "kl")
        assert accuracy.total.value is not None and accuracy.total.value < -0.4
        through, past = (accuracy.indirect, accuracy.direct) if which == "reader" else (
            accuracy.direct, accuracy.indirect,
        )  # fmt: skip
        assert through.value == pytest.approx(accuracy.total.value) and past.value == 0
        assert accuracy.share == pytest.approx(1.0 if which == "reader" else 0.0)
        assert accuracy.interaction.value == pytest.approx(0)
        assert kl.total.value is not None and kl.total.value > 0.5
        cells = {(cell.x, cell.z): cell for cell in way.cells}
        assert cells[("own", "own")].accuracy.value == 1 and cells[("own", "own")].kl.value == 0


def test_latents_alone_are_worth_the_picture_to_the_reader_and_chance_to_the_deaf_model() -> None:
    for which in ("reader", "deaf"):
        runner, settings = toys.reader() if which == "reader" else toys.deaf()
        result = only_latents(runner, toys.clean(which), PROBLEMS, settings.analysis, toys.quiet)
        runs = {(run.name, run.seen): run.accuracy.value for run in result.runs}
        (whole,) = [row for row in result.chance if row.group == "all"]
        assert whole.majority == pytest.approx(1 / 3) and whole.n == len(PROBLEMS)
        assert whole.shuffled.value == pytest.approx(1 / 3, abs=0.1)
        assert runs[("own", "present")] == 1 and runs[("zero", "hidden")] < 0.7 and runs[("blind", "hidden")] < 0.7
        if which == "reader":
            assert runs[("own", "hidden")] == runs[("own-alone", "hidden")] == 1 and runs[("permute", "hidden")] < 0.7
        else:
            assert runs[("own", "hidden")] == runs[("permute", "hidden")] < 0.7


def test_the_seed_decides_and_the_batch_does_not() -> None:
    runner, settings = toys.reader()
    clean_run = toys.clean("reader")
    result = mediation(runner, clean_run, PROBLEMS, settings.analysis, toys.quiet)
    assert result == mediation(runner, clean_run, PROBLEMS, settings.analysis, toys.quiet)
    runner.batch_size, before = 7, runner.batch_size
    try:
        other = mediation(runner, clean_run, PROBLEMS, settings.analysis, toys.quiet)
    finally:
        runner.batch_size = before
    assert [way.effects[0] for way in other.ways] == [way.effects[0] for way in result.ways]
