"""What is known of a run while it works: its stages, their steps and figures, and the time they still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mirage_core.types import ProgressEvent
from tasks.log_lines import MAIN_FIGURES, RATE, main_figures

StageState = Literal["waiting", "running", "done", "cached", "failed"]
MIN_SHARE = 0.02
"""Of a stage's steps: before that its own pace says little about the rest."""
SLACK = 1.05
"""A stage that takes longer than expected is taken to need a little more than it has had."""


@dataclass(slots=True)
class Row:
    """One stage. ``at``: when it began, ``seconds``: what it took, ``expected``: seconds that it will take, if known.

    ``curve`` holds the first of its main figures at every step that was reported.
    """

    name: str
    state: StageState = "waiting"
    expected: float | None = None
    at: float = 0.0
    seconds: float | None = None
    step: int = 0
    total: int | None = None
    figures: dict[str, float] = field(default_factory=dict)
    drawn: str = ""
    curve: list[float] = field(default_factory=list)
    message: str = ""
    first: tuple[int, float] | None = None
    newest: float = 0.0

    @property
    def share(self) -> float:
        """The share of its steps that is done."""
        if self.state in ("done", "cached"):
            return 1.0
        return min(1.0, self.step / self.total) if self.total else 0.0

    @property
    def rate(self) -> float | None:
        """Steps a second, as the stage says, else from the steps since the first event."""
        if RATE in self.figures:
            return self.figures[RATE]
        if self.first is None or self.newest <= self.first[1] or self.step <= self.first[0]:
            return None
        return (self.step - self.first[0]) / (self.newest - self.first[1])

    def report(self, event: ProgressEvent, now: float) -> None:
        """Take the step and the figures of an event; a message without a step is only shown."""
        if event.step is None:
            self.message = event.message
            return
        if self.first is None or event.step < self.step:
            self.first, self.curve = (event.step, now), []
        self.step, self.total, self.newest = event.step, event.total, now
        self.figures.update(main_figures(event.metrics))
        name = next((name for name in (self.drawn, *MAIN_FIGURES) if name in event.metrics), "")
        if name:
            self.drawn = name
            self.curve.append(event.metrics[name])

    def left(self, now: float) -> float | None:
        """Seconds until it ends; None where nothing tells."""
        if self.state in ("done", "cached", "failed"):
            return 0.0
        if self.state == "waiting":
            return self.expected
        if self.rate and self.total and self.share >= MIN_SHARE:
            return max(0.0, (self.total - self.step) / self.rate - (now - self.newest))
        return None if self.expected is None else max(self.expected, SLACK * (now - self.at)) - (now - self.at)


class Board:
    """The stages of a run by key, in the order in which they began, then those that wait."""

    def __init__(
        self,
        expected: Mapping[str, float | None] | None = None,
        clock: Callable[[], float] = time.time,
        *,
        at_once: int = 1,
    ) -> None:
        self._at_once = at_once
        self.clock = clock
        self.started = clock()
        self.waiting = {name: Row(name, expected=seconds) for name, seconds in (expected or {}).items()}
        self.begun: dict[Hashable, Row] = {}

    @property
    def rows(self) -> list[Row]:
        """All rows, in their order."""
        return [*self.begun.values(), *self.waiting.values()]

    def row(self, key: Hashable, name: str) -> Row:
        """Return the row of ``key``; where it has none, that of a waiting stage of this name, or a new one."""
        return self.begun[key] if key in self.begun else self.begin(key, name)

    def begin(self, key: Hashable, name: str) -> Row:
        """Note that a stage begins now; a stage that ended under this key, such as another seed's, gives up its row."""
        ended = self.begun.get(key)
        row = self.waiting.pop(name, None) or Row(name, expected=ended.expected if ended else None)
        row.state, row.at = "running", self.clock()
        self.begun[key] = row
        return row

    def end(self, key: Hashable, name: str, state: StageState, seconds: float | None = None) -> Row:
        """Note that a stage has ended, after so many seconds where the caller knows better than the clock."""
        row = self.row(key, name)
        row.state = state
        row.seconds = self.clock() - row.at if seconds is None else seconds
        return row

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Take the seconds that stages will need, by name, where none were known."""
        for row in self.rows:
            row.expected = seconds.get(row.name) if row.expected is None else row.expected

    def left(self) -> str:
        """The time until all ends, for people: ``at least`` where one stage's is not known.

        Of stages side by side it takes the mean of the slots, or the longest stage: what waits for what is not known.
        """
        now = self.clock()
        times = [row.left(now) for row in self.rows]
        seconds = [one for one in times if one is not None]
        known = max(sum(seconds) / self._at_once, *seconds, 0.0)
        if not known:
            return ""
        return f"{'at least' if None in times else 'about'} {duration(known)} left of the road"


def duration(seconds: float) -> str:
    """Return seconds for people: ``8 s``, ``3 min 20 s``, ``1 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
