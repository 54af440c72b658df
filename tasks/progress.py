"""Progress of a running stage: lines in the flow's log, a progress bar and curves among the UI's artifacts."""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from mirage_core.types import ProgressEvent
from tasks.log_lines import line_of
from tasks.ui_artifacts import curves_markdown

Log = logging.Logger | logging.LoggerAdapter[Any]


class StageProgress:
    """Shows a stage's progress events in the log and the UI, at most one every ``every_s`` seconds."""

    def __init__(
        self,
        name: str,
        log: Log,
        *,
        curves: bool = False,
        every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._log = log
        self._draws_curves = curves
        self._every_s = every_s
        self._clock = clock
        self._logged = float("-inf")
        self._bar: UUID | None = None
        self._shown = -1.0
        self._curves: dict[str, list[tuple[int, float]]] = defaultdict(list)

    def __call__(self, event: ProgressEvent) -> None:
        """Show one event: always where it has no step or is the last one, else a few seconds after the one before."""
        if event.step is not None:
            for name, value in event.metrics.items():
                self._curves[name].append((event.step, float(value)))
        last = event.step is not None and event.step == event.total
        if event.step is None or last or self._clock() - self._logged >= self._every_s:
            self._log_event(event)

    def finish(self, *, done: bool) -> None:
        """Write the curves to the run's artifacts; complete the progress bar only where the work is done."""
        if done and self._bar is not None and self._shown < 100.0:
            self._show(100.0, f"{self.name}: done")
        if self._draws_curves and any(len(points) > 1 for points in self._curves.values()):
            self._try(self._draw_curves)

    def _log_event(self, event: ProgressEvent) -> None:
        self._logged = self._clock()
        self._log.info("%s", line_of(self.name, event))
        if event.step is not None and event.total:
            self._show(100.0 * event.step / event.total, f"{self.name}: {event.step}/{event.total}")

    def _show(self, percent: float, description: str) -> None:
        self._shown = percent
        self._try(lambda: self._update_bar(percent, description))

    def _update_bar(self, percent: float, description: str) -> None:
        if self._bar is None:
            artifact = create_progress_artifact(percent, key=slug(f"progress-{self.name}"), description=description)
            self._bar = cast(UUID, artifact)  # a coroutine only where it is called in an event loop
        else:
            update_progress_artifact(self._bar, percent, description=description)

    def _draw_curves(self) -> None:
        markdown = curves_markdown(f"Curves of {self.name}", self.name, self._curves)
        create_markdown_artifact(markdown, key=slug(f"curves-{self.name}"), description=f"Curves of {self.name}")

    def _try(self, write: Callable[[], object]) -> None:
        """Write an artifact; an error is logged and ignored, since it must not end the work of hours."""
        try:
            write()
        except Exception as error:
            self._log.warning("the UI's artifact of %s could not be written: %s", self.name, error)


def slug(text: str) -> str:
    """Return a valid artifact key: lower case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
