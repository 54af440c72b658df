"""The table that stays in place in a terminal: a row a stage, the newest line of the log below it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.display.board import Board, Row, duration
from flows.display.display import STYLES, Display
from flows.display.sparkline import sparkline
from mirage_core.types import ProgressEvent
from tasks.log_lines import RATE, figures_of, line_of

REFRESHES_PER_SECOND = 1.0
BAR_WIDTH = 14
OTHER_LINES = 4
"""Of the terminal: the headings, the log's line, the road's, and the cursor's."""


class LiveTable(Display):
    """A table that is drawn again in its place, once a second; faults are printed above it and stay."""

    def __init__(self, console: Console, board: Board | None = None) -> None:
        super().__init__(console, board)
        self._newest = ""
        self._live = Live(
            console=console,
            get_renderable=self.render,
            refresh_per_second=REFRESHES_PER_SECOND,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the table on the screen where the run failed; else the run's own table takes its place."""
        super().__exit__(kind, error, trace)
        self._live.transient = error is None
        self._live.stop()

    def log(self, line: str) -> None:
        """Show the line below the table until the next one."""
        self._newest = line

    def changed(self, row: Row) -> None:
        """Draw the table at once."""
        self._newest = f"{row.name}: {row.state}"
        self._live.refresh()

    def progressed(self, row: Row, event: ProgressEvent) -> None:
        """Show what the stage says below the table; its row is drawn with the next refresh."""
        if event.step is None or event.message:
            self._newest = line_of(row.name, event)

    def render(self) -> RenderableType:
        """Return the table as it is now."""
        with self.lock:
            now = self.board.clock()
            table = Table(box=None, pad_edge=False, expand=False)
            for heading in ("stage", "state", "", "steps", "steps/s", "figures", "curve", "left"):
                table.add_column(heading, no_wrap=True, overflow="ellipsis")
            for row in fitting(self.board.rows, self.console.height - OTHER_LINES):
                table.add_row(*_cells(row, now), style=STYLES.get(row.state, "dim"))
            times = (f"{duration(now - self.board.started)} since the start", self.board.left())
            newest = Text(self._newest, style="dim")
            newest.truncate(self.console.width, overflow="ellipsis")
            return Group(table, Text(", ".join(filter(None, times))), newest)


def fitting(rows: list[Row], height: int) -> list[Row]:
    """Return the rows that a terminal has room for: what runs, then what waits next and what ended last."""
    height = max(1, height)
    if len(rows) <= height:
        return rows
    running = [row for row in rows if row.state == "running"][:height]
    ended = [row for row in rows if row.state in ("done", "cached", "failed")]
    waiting = [row for row in rows if row.state == "waiting"][: (height - len(running) + 1) // 2]
    room = height - len(running) - len(waiting)
    kept = {id(row) for row in [*running, *waiting, *ended[max(0, len(ended) - room) :]]}
    return [row for row in rows if id(row) in kept]


def _cells(row: Row, now: float) -> list[RenderableType]:
    """Return the cells of a stage."""
    begun = row.state != "waiting"
    seconds = row.seconds if row.seconds is not None else now - row.at
    left = row.left(now)
    state = f"{row.state} {duration(seconds)}" if begun and row.state != "cached" else row.state
    return [
        row.name,
        state,
        ProgressBar(total=1.0, completed=row.share, width=BAR_WIDTH) if begun and row.state != "cached" else "",
        f"{row.step}/{row.total}" if row.total else "",
        f"{row.rate:.3g}" if row.rate else "",
        figures_of({name: value for name, value in row.figures.items() if name != RATE}),
        sparkline(row.curve),
        duration(left) if left and row.state in ("running", "waiting") else "",
    ]
