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
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from mirage_core.types import ProgressEvent
from tasks.log_lines import line_of
from tasks.ui_artifacts import curves_markdown

Log = logging.Logger | logging.LoggerAdapter[Any]
EVERY_S = 10.0
"""Between two lines of a running stage: each costs this process and the server some 50 ms together."""
CURVES_EVERY_S = 60.0
DRAWING_SHARE = 0.01
"""Of a core, at most, for drawing curves while a stage runs."""


class StageProgress:
    """Shows a stage's progress events in the log and the UI, at most one every ``every_s`` seconds.

    Its curves are drawn while it runs: every minute, more seldom where drawing takes long.
    """

    def __init__(
        self,
        name: str,
        log: Log,
        *,
        curves: bool = False,
        every_s: float = EVERY_S,
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
        self._page: UUID | None = None
        self._draw_at = clock() + CURVES_EVERY_S
        self._curves: dict[str, list[tuple[int, float]]] = defaultdict(list)

    def __call__(self, event: ProgressEvent) -> None:
        """Show one event: always where it has no step or is the last one, else a few seconds after the one before."""
        if event.step is not None:
            for name, value in event.metrics.items():
                self._curves[name].append((event.step, float(value)))
        last = event.step is not None and event.step == event.total
        if event.step is None or last or self._clock() - self._logged >= self._every_s:
            self._log_event(event)
        if self._clock() >= self._draw_at:
            self._show_curves()

    def finish(self, *, done: bool) -> None:
        """Write the curves to the run's artifacts; complete the progress bar only where the work is done."""
        if done and self._bar is not None and self._shown < 100.0:
            self._show(100.0, f"{self.name}: done")
        self._show_curves()

    def _log_event(self, event: ProgressEvent) -> None:
        self._logged = self._clock()
        self._log.info("%s", line_of(self.name, event))
        if event.step is not None and event.total:
            self._show(100.0 * event.step / event.total, line_of(self.name, event))

    def _show(self, percent: float, description: str) -> None:
        self._shown = percent
        self._try(lambda: self._update_bar(percent, description))

    def _update_bar(self, percent: float, description: str) -> None:
        if self._bar is None:
            artifact = create_progress_artifact(percent, key=slug(f"progress-{self.name}"), description=description)
            self._bar = cast(UUID, artifact)  # a coroutine only where it is called in an event loop
        else:
            update_progress_artifact(self._bar, percent, description=description)

    def _show_curves(self) -> None:
        started = self._clock()
        if self._draws_curves and any(len(points) > 1 for points in self._curves.values()):
            self._try(self._draw_curves)
        now = self._clock()
        self._draw_at = now + max(CURVES_EVERY_S, (now - started) / DRAWING_SHARE)

    def _draw_curves(self) -> None:
        """Draw the curves so far: a new artifact the first time, afterwards the same one with another content."""
        title = f"Curves of {self.name}"
        markdown = curves_markdown(title, self.name, self._curves)
        if self._page is None:
            artifact = create_markdown_artifact(markdown, key=slug(f"curves-{self.name}"), description=title)
            self._page = cast(UUID, artifact)
        else:
            with get_client(sync_client=True) as client:
                client.update_artifact(self._page, ArtifactUpdate(data=markdown))

    def _try(self, write: Callable[[], object]) -> None:
        """Write an artifact; an error is logged and ignored, since it must not end the work of hours."""
        try:
            write()
        except Exception as error:
            self._log.warning("the UI's artifact of %s could not be written: %s", self.name, error)


def slug(text: str) -> str:
    """Return a valid artifact key: lower case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
