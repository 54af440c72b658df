"""What the command line prints: results to stdout, progress and warnings to stderr."""

from __future__ import annotations

import sys
import time

from rich.console import Console

from mirage_core.types import ProgressEvent
from tasks.log_lines import line_of

PIPE_WIDTH = 200
"""A pipe or a file has no width: tables are not truncated there."""

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
stderr = Console(highlight=False, soft_wrap=True, stderr=True)


def print_line(line: str, style: str | None = None) -> None:
    """Print one line to stdout as it is, without rich's markup."""
    console.print(line, style=style, markup=False)


def log_progress(event: ProgressEvent) -> None:
    """Print a progress event to stderr, so that ``--json`` leaves only JSON on stdout."""
    stderr.print(line_of(event.stage, event), markup=False)


def no_progress(event: ProgressEvent) -> None:
    """Print nothing."""


class DirectProgress:
    """Prints the progress events of stages in this process: steps a few seconds apart, everything else at once."""

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s = every_s
        self._printed = float("-inf")

    def __call__(self, event: ProgressEvent) -> None:
        """Print one event."""
        now = time.monotonic()
        if event.step is None or event.step == event.total or now - self._printed >= self._every_s:
            self._printed = now
            print_line(line_of(event.stage, event))
