"""Where the news of a run goes: to a table in a terminal, to a few lines anywhere else."""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from rich.console import Console

from flows.display.board import Board, Row, StageState, duration
from mirage_core.types import ProgressEvent
from tasks.log_lines import RATE, figures_of, line_of

_NUMBER = re.compile(r"\d+")
LINE_EVERY_S = 60.0
"""Between two lines of a running stage, where no table stays in place."""
STYLES: dict[StageState, str] = {"running": "bold", "done": "green", "cached": "cyan", "failed": "red"}


class Display(ABC):
    """Takes the news of a run, and shows them; a context manager. Any thread may call it."""

    def __init__(self, console: Console, board: Board | None = None) -> None:
        self.console, self.board = console, board or Board()
        self.lock = threading.RLock()
        self.closing = ExitStack()
        """What ends with the display."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note that what still runs has failed, where the block ends by an error."""
        self.closing.close()
        with self.lock:
            for row in self.board.rows:
                row.state = "failed" if error is not None and row.state == "running" else row.state

    def say(self, line: str, style: str | None = None) -> None:
        """Print a line that stays, as it is."""
        self.console.print(line, style=style, markup=False)

    @abstractmethod
    def log(self, line: str) -> None:
        """Show a line of the log that is no fault and no stage's progress."""

    @abstractmethod
    def changed(self, row: Row) -> None:
        """Show a stage that has begun or ended."""

    @abstractmethod
    def progressed(self, row: Row, event: ProgressEvent) -> None:
        """Show a stage's step, or what it says."""

    def begin(self, key: Hashable, name: str) -> None:
        """Note that a stage has begun; ``key`` distinguishes it from others of this name."""
        with self.lock:
            if key not in self.board.begun or self.board.begun[key].state != "running":
                self.changed(self.board.begin(key, name))

    def end(self, key: Hashable, name: str, state: StageState, seconds: float | None = None) -> None:
        """Note that a stage has ended."""
        with self.lock:
            self.changed(self.board.end(key, name, state, seconds))

    def take(self, key: Hashable, event: ProgressEvent) -> None:
        """Take the event of a stage; what comes from no stage is a line of the log."""
        with self.lock:
            if event.state == "started":
                self.begin(key, event.stage)
            elif event.state is not None:
                self.end(key, event.stage, event.state)
            elif key not in self.board.begun:
                self.log(line_of(event.stage, event))
            else:
                row = self.board.begun[key]
                row.report(event, self.board.clock())
                if row.state == "running":
                    self.progressed(row, event)

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Take the seconds that stages will need, by name, where none were known."""
        with self.lock:
            self.board.expect(seconds)

    def progress(self, event: ProgressEvent) -> None:
        """Take the event of a stage of this process: a stage runs in one thread, beside others of its name."""
        self.take((event.stage, threading.get_ident()), event)


class Lines(Display):
    """One line where a stage begins and ends, and one a minute in between."""

    def __init__(self, console: Console, board: Board | None = None, every_s: float = LINE_EVERY_S) -> None:
        super().__init__(console, board)
        self._every_s = every_s
        self._printed: dict[int, float] = {}
        self._messages: dict[int, str] = {}

    def log(self, line: str) -> None:
        """Print the line."""
        self.say(f"  {line}")

    def changed(self, row: Row) -> None:
        """Print the stage with its state."""
        self._printed[id(row)] = self.board.clock()
        self.say(f"  {row.name}: {_state_words(row)}", STYLES.get(row.state))

    def progressed(self, row: Row, event: ProgressEvent) -> None:
        """Print what the stage says; its step, or the same words with other numbers, where its last line is old."""
        now, words = self.board.clock(), _NUMBER.sub("", event.message)
        new = event.step is None and words != self._messages.get(id(row))
        if new or now - self._printed.get(id(row), now) >= self._every_s:
            self._printed[id(row)] = now
            line = step_line(row, now, self.board.left()) if event.step is not None else line_of(row.name, event)
            self.say(f"  {line}")
        if event.step is None:
            self._messages[id(row)] = words


class Silent(Display):
    """Shows nothing, as where only JSON is printed."""

    def say(self, line: str, style: str | None = None) -> None:
        """Print nothing."""

    def log(self, line: str) -> None:
        """Print nothing."""

    def changed(self, row: Row) -> None:
        """Print nothing."""

    def progressed(self, row: Row, event: ProgressEvent) -> None:
        """Print nothing."""


def _state_words(row: Row) -> str:
    if row.state == "running":
        return f"running, about {duration(row.expected)}" if row.expected and row.expected >= 1 else "running"
    figures = {name: value for name, value in row.figures.items() if name != RATE}
    seconds = f" in {row.seconds:.1f} s" if row.state == "done" and row.seconds is not None else ""
    return f"{row.state}{seconds}{', ' + figures_of(figures) if figures and row.state == 'done' else ''}"


def step_line(row: Row, now: float, road: str) -> str:
    """Return a running stage in one line: step, figures, pace, and the time left of it and of the whole."""
    figures = figures_of({name: value for name, value in row.figures.items() if name != RATE})
    left = row.left(now)
    parts = [
        f"{row.name} {row.step}/{row.total}" if row.total else f"{row.name} {row.step}",
        figures,
        f"{row.rate:.3g} steps/s" if row.rate else "",
        f"{duration(left)} left" if left is not None else "",
        road,
    ]
    return ", ".join(part for part in parts if part)
