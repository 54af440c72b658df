"""When a loss runs away, which validation is the best, and when to stop: the same after a resume."""

from __future__ import annotations

import random

import pytest
from pydantic import ValidationError

from mirage_core.config import GRPOSettings, ValidationSettings
from mirage_core.training.logging.curves import Curves
from mirage_core.training.validation.early_stopping import Best, EarlyStopping, LossDivergence


def diverging_steps(losses: list[float], max_loss_ratio: float | None = 5.0) -> list[int]:
    """The steps at which it says that the loss diverges."""
    divergence = LossDivergence(max_loss_ratio, Curves())
    return [step for step, loss in enumerate(losses, start=1) if divergence.check(step, loss) is not None]


def test_a_loss_that_stays_high_is_a_divergence_a_few_steps_later() -> None:
    assert diverging_steps([1.0] * 30 + [6.0] * 10)[0] == 36


def test_single_spikes_and_a_falling_loss_are_none() -> None:
    rng = random.Random(1)
    noisy = [4.0 / step + 0.2 * rng.random() + (50.0 if step % 7 == 0 else 0.0) for step in range(1, 200)]
    assert diverging_steps(noisy) == []


def test_a_loss_that_began_near_nothing_may_grow_a_little() -> None:
    assert diverging_steps([0.001] * 10 + [0.3] * 20) == []
    assert diverging_steps([0.001] * 10 + [0.6] * 20) != []


def test_without_a_limit_any_loss_goes_on() -> None:
    assert diverging_steps([1.0] * 10 + [1e9] * 20, max_loss_ratio=None) == []


def test_the_message_of_a_divergence_has_its_figures() -> None:
    divergence = LossDivergence(2.0, Curves())
    for step in range(1, 20):
        divergence.check(step, 1.0)
    for step in range(20, 40):
        message = divergence.check(step, 7.0)
    assert message is not None
    for part in ("step 39", "median over the last 10 steps is 7", "max_loss_ratio = 2", "first 10 steps"):
        assert part in message


def after_validations(values: list[float], **settings: object) -> tuple[EarlyStopping, list[int]]:
    """The state after a validation every ten steps, and the steps that were the best so far."""
    stopping = EarlyStopping(ValidationSettings.model_validate({"every": 10, **settings}), Curves())
    return stopping, [10 * at for at, value in enumerate(values) if stopping.update(10 * at, value)]


def test_the_lowest_loss_or_the_highest_accuracy_is_the_best_and_the_first_of_equals() -> None:
    stopping, best = after_validations([3.0, 2.0, 2.0, 1.0, 4.0])
    assert best == [0, 10, 30] and stopping.best == Best(30, 1.0)
    stopping, best = after_validations([0.1, 0.4, 0.4, 0.2], metric="accuracy", problems=5)
    assert best == [0, 10] and stopping.best == Best(10, 0.4)


def test_it_stops_after_so_many_validations_in_a_row_without_a_better_one() -> None:
    assert after_validations([3.0, 2.0, 2.5, 1.9, 2.5], patience=2)[0].stop_reason is None
    stopping, _ = after_validations([3.0, 2.0, 2.5, 2.1], patience=2)
    assert stopping.stop_reason is not None
    assert "none of the last 2 validations was better than validation/loss 2 after step 10" in stopping.stop_reason
    assert after_validations([3.0, 2.0, 2.5, 2.1])[0].stop_reason is None


def test_after_a_resume_it_judges_as_if_nothing_had_happened() -> None:
    curves = Curves()
    for step in range(1, 31):
        curves.add(step, {"loss": 1.0})
    for step, value in ((0, 3.0), (10, 2.0), (20, 2.5), (30, 2.1)):
        curves.add(step, {"validation/loss": value})
    stopping = EarlyStopping(ValidationSettings(every=10, patience=3), curves)
    assert stopping.best == Best(10, 2.0) and stopping.stop_reason is None
    stopping.update(40, 2.2)
    assert stopping.stop_reason is not None
    divergence = LossDivergence(5.0, curves)
    assert [divergence.check(30 + step, 6.0) is None for step in range(1, 11)].count(False) == 5


def test_a_policy_is_watched_by_its_answers_alone() -> None:
    with pytest.raises(ValidationError, match=r"needs grpo\.validation\.problems"):
        GRPOSettings.model_validate({"validation": {"every": 5}})
    with pytest.raises(ValidationError, match="metric: accuracy"):
        GRPOSettings.model_validate({"validation": {"every": 5, "problems": 4, "keep_best": True}})
    GRPOSettings.model_validate({"validation": {"every": 5, "problems": 4, "metric": "accuracy", "keep_best": True}})
