"""The learning rate by step."""

from __future__ import annotations

import pytest

from mirage_core.training.engine.optimizers import learning_rate


def rates(schedule: str, steps: int = 10, warmup: int = 4) -> list[float]:
    return [
        learning_rate(step, steps=steps, peak=1.0, warmup_steps=warmup, schedule=schedule)  # type: ignore[arg-type]
        for step in range(steps)
    ]


@pytest.mark.parametrize("schedule", ("constant", "cosine", "linear"))
def test_the_rate_climbs_to_its_peak_and_never_exceeds_it(schedule: str) -> None:
    found = rates(schedule)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[4] == 1.0 and max(found) == 1.0 and min(found) > 0


def test_the_rate_falls_as_its_schedule_says() -> None:
    assert rates("constant")[-1] == 1.0
    assert rates("linear")[7] == pytest.approx(0.5)
    assert rates("cosine")[7] == pytest.approx(0.5)


def test_a_warm_up_longer_than_the_run_takes_half_of_it() -> None:
    assert rates("constant", steps=4, warmup=100) == [0.5, 1.0, 1.0, 1.0]
