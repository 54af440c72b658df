"""The Prefect step of the road: each stage becomes a task run of the flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from prefect import State, get_run_logger

from mirage_core.config import Settings
from mirage_core.pipeline.run_tracker import RunBook
from mirage_core.pipeline.stage import label
from mirage_core.types import Artifact
from tasks.stages import task_for

PrefectStep = Callable[..., Artifact]


def prefect_step(settings: Settings, store: str, book: RunBook) -> PrefectStep:
    """The step that runs a stage as a task and notes it in the run's book; ``store`` is the store's URL."""

    def step(name: str, params: Mapping[str, Any], /, **inputs: Artifact) -> Artifact:
        return book.stage(label(name, params), lambda: run_task(name, params, settings, store, inputs))

    return step


def lost_said(book: RunBook | None = None) -> Callable[[str], None]:
    """Tells in the flow's log, and in the run's book, what was lost and is made again."""

    def say(said: str) -> None:
        get_run_logger().warning("%s", said)
        if book is not None:
            book.lost(said)

    return say


def run_task(
    name: str, params: Mapping[str, Any], settings: Settings, store: str, inputs: Mapping[str, Artifact]
) -> tuple[Artifact, bool]:
    """Run one stage's task; its artifact, and whether Prefect or the store had it already."""
    stage = task_for(name, params, store)
    ended = stage(
        name=name, params=dict(params), settings=settings, store=store, inputs=dict(inputs), return_state=True
    )
    state = cast(State[Artifact], ended)
    return state.result(), state.name == "Cached"
