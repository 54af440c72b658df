"""What a stage says while it works."""

from __future__ import annotations

import logging

import pytest

from mirage_core.types import ProgressEvent
from tasks.log_lines import line_of
from tasks.progress import StageProgress, slug


class Clock:
    """A clock the test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The percentages the UI was shown."""
    percents: list[float] = []
    monkeypatch.setattr(
        "tasks.progress.create_progress_artifact", lambda percent, **_: percents.append(percent) or "bar"
    )
    monkeypatch.setattr("tasks.progress.update_progress_artifact", lambda _, percent, **__: percents.append(percent))
    monkeypatch.setattr("tasks.progress.create_markdown_artifact", lambda *_, **__: None)
    return percents


def test_steps_are_said_a_few_seconds_apart_and_the_last_one_always(
    shown: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    progress = StageProgress("relaxation", logging.getLogger("test"), every_s=50, clock=clock)
    with caplog.at_level(logging.INFO):
        for step in range(1, 101):
            clock.now += 1
            progress(ProgressEvent(stage="relaxation", step=step, total=100, metrics={"loss": 1 / step}))

    assert [record.message.split()[1] for record in caplog.records] == ["1/100", "51/100", "100/100"]
    assert shown == [1.0, 51.0, 100.0]


def test_a_message_without_a_step_is_said_at_once(shown: list[float], caplog: pytest.LogCaptureFixture) -> None:
    progress = StageProgress("base", logging.getLogger("test"))
    with caplog.at_level(logging.INFO):
        progress(ProgressEvent(stage="base", message="the plain engine is used"))
        progress(ProgressEvent(stage="base", message="resumed from step 50"))

    assert len(caplog.records) == 2
    assert shown == []


def test_a_server_that_refuses_a_picture_does_not_cost_the_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr("tasks.progress.create_progress_artifact", refuse)
    progress = StageProgress("base", logging.getLogger("test"))
    progress(ProgressEvent(stage="base", step=1, total=2))

    assert "gone" in caplog.text


def test_a_line_has_the_step_the_figures_and_the_message() -> None:
    event = ProgressEvent(stage="grpo", step=2, total=4, metrics={"reward": 0.25}, message="saved")

    assert line_of("grpo", event) == "grpo 2/4 reward 0.25 saved"


def test_artifact_keys_have_the_form_prefect_wants() -> None:
    assert slug("curves-evaluation/stage-2") == "curves-evaluation-stage-2"
