"""When a loss runs away, which validation is the best, and when to stop: the same after a resume."""

from __future__ import annotations

import random

import pytest
from pydantic import ValidationError

from mirage_core.config import GRPOSettings, ValidationSettings
from mirage_core.training.logging.curves import Curves
from mirage_core.training.validation.early_stopping import Best, Divergence, Watch


def followed(losses: list[float], stop_above: float | None = 5.0) -> list[int]:
    """The steps at which it says that the loss diverges."""
    divergence = Divergence(stop_above, Curves())
    return [step for step, loss in enumerate(losses, start=1) if divergence.follow(step, loss) is not None]


def test_a_loss_that_stays_high_is_a_divergence_a_few_steps_later() -> None:
    assert followed([1.0] * 30 + [6.0] * 10)[0] == 36


def test_single_spikes_and_a_falling_loss_are_none() -> None:
    rng = random.Random(1)
    noisy = [4.0 / step + 0.2 * rng.random() + (50.0 if step % 7 == 0 else 0.0) for step in range(1, 200)]
    assert followed(noisy) == []


def test_a_loss_that_began_near_nothing_may_grow_a_little() -> None:
    assert followed([0.001] * 10 + [0.3] * 20) == []
    assert followed([0.001] * 10 + [0.6] * 20) != []


def test_without_a_limit_any_loss_goes_on() -> None:
    assert followed([1.0] * 10 + [1e9] * 20, stop_above=None) == []


def test_what_diverges_is_said_in_figures() -> None:
    divergence = Divergence(2.0, Curves())
    for step in range(1, 20):
        divergence.follow(step, 1.0)
    for step in range(20, 40):
        said = divergence.follow(step, 7.0)
    assert said is not None
    for part in ("step 39", "median over the last 10 steps is 7", "stop_above = 2", "first 10 steps"):
        assert part in said


def watched(values: list[float], **settings: object) -> tuple[Watch, list[int]]:
    """A watch that has seen a validation every ten steps, and the steps it called the best so far."""
    watch = Watch(ValidationSettings.model_validate({"every": 10, **settings}), Curves())
    return watch, [10 * at for at, value in enumerate(values) if watch.judge(10 * at, value)]


def test_the_lowest_loss_or_the_highest_accuracy_is_the_best_and_the_first_of_equals() -> None:
    watch, best = watched([3.0, 2.0, 2.0, 1.0, 4.0])
    assert best == [0, 10, 30] and watch.best == Best(30, 1.0)
    watch, best = watched([0.1, 0.4, 0.4, 0.2], metric="accuracy", problems=5)
    assert best == [0, 10] and watch.best == Best(10, 0.4)


def test_it_stops_after_so_many_validations_in_a_row_without_a_better_one() -> None:
    assert watched([3.0, 2.0, 2.5, 1.9, 2.5], patience=2)[0].stop is None
    watch, _ = watched([3.0, 2.0, 2.5, 2.1], patience=2)
    assert watch.stop is not None
    assert "none of the last 2 validations was better than validation/loss 2 after step 10" in watch.stop
    assert watched([3.0, 2.0, 2.5, 2.1])[0].stop is None


def test_after_a_resume_it_judges_as_if_nothing_had_happened() -> None:
    curves = Curves()
    for step in range(1, 31):
        curves.add(step, {"loss": 1.0})
    for step, value in ((0, 3.0), (10, 2.0), (20, 2.5), (30, 2.1)):
        curves.add(step, {"validation/loss": value})
    watch = Watch(ValidationSettings(every=10, patience=3), curves)
    assert watch.best == Best(10, 2.0) and watch.stop is None
    watch.judge(40, 2.2)
    assert watch.stop is not None
    divergence = Divergence(5.0, curves)
    assert [divergence.follow(30 + step, 6.0) is None for step in range(1, 11)].count(False) == 5


def test_a_policy_is_watched_by_its_answers_alone() -> None:
    with pytest.raises(ValidationError, match=r"needs grpo\.validation\.problems"):
        GRPOSettings.model_validate({"validation": {"every": 5}})
    with pytest.raises(ValidationError, match="metric: accuracy"):
        GRPOSettings.model_validate({"validation": {"every": 5, "problems": 4, "keep_best": True}})
    GRPOSettings.model_validate({"validation": {"every": 5, "problems": 4, "metric": "accuracy", "keep_best": True}})
