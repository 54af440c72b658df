"""How a flow runs stages: each stage is a task run of the flow, and lost artifacts are logged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from prefect import State, get_run_logger

from mirage_core.config import Settings
from mirage_core.pipeline.run_tracker import RunTracker
from mirage_core.pipeline.stage import label
from mirage_core.types import Artifact
from tasks.stages import task_for

PrefectStep = Callable[..., Artifact]


def prefect_step(settings: Settings, store: str, tracker: RunTracker | None = None) -> PrefectStep:
    """Return a step that runs a stage as a task; ``store`` is a URL.

    ``tracker`` records the stage; without one the flow's log names its artifact.
    """

    def step(name: str, params: Mapping[str, Any], /, **inputs: Artifact) -> Artifact:
        if tracker is not None:
            with tracker.stage(label(name, params)) as finish:
                artifact, cached = run_task(name, params, settings, store, inputs)
                finish(artifact, cached)
            return artifact
        artifact, cached = run_task(name, params, settings, store, inputs)
        get_run_logger().info("%s: %s%s", label(name, params), artifact.path, " (cached)" if cached else "")
        return artifact

    return step


def lost_artifact_logger(tracker: RunTracker | None = None) -> Callable[[str], None]:
    """Return a callback that notes a lost artifact in the flow's log and in the run's record."""

    def log(message: str) -> None:
        get_run_logger().warning("%s", message)
        if tracker is not None:
            tracker.add_fault(message)

    return log


def run_task(
    name: str, params: Mapping[str, Any], settings: Settings, store: str, inputs: Mapping[str, Artifact]
) -> tuple[Artifact, bool]:
    """Run one stage's task; return its artifact, and whether the store had it already."""
    state = cast(
        State[Artifact],
        task_for(name, params)(
            name=name, params=dict(params), settings=settings, store=store, inputs=dict(inputs), return_state=True
        ),
    )
    return state.result(), state.name == "Cached"
