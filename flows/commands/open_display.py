"""The display of this process's standard output: a table in a terminal, lines in a pipe, a file or a CI's log."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console

from deployments import machine
from flows.commands.printing import console, print_line
from flows.display.board import Board
from flows.display.display import Display, Lines
from flows.display.expected import Planning, expected_seconds, of_rows, plan_command, planned_rate
from flows.display.table import LiveTable
from mirage_core.config import Settings
from mirage_core.distributed.forked import can_fork
from mirage_core.store import Store


def open_display(expected: Mapping[str, float | None] | None = None, *, at_once: int = 1) -> Display:
    """Return the display for these stages, of which ``at_once`` run side by side.

    ``expected``: the seconds each will take, in order, None where unknown.
    """
    board = Board(expected, at_once=at_once)
    return LiveTable(Console(highlight=False), board) if stays_in_place() else Lines(console, board)


def open_run_display(recipe: str, sets: Sequence[str], settings: Settings, store: Store) -> Display:
    """Print the machine's speed; return the display of a run of a recipe, with the time its stages will take.

    What no earlier run tells is planned meanwhile, on a machine whose speed is that of its cores.
    """
    gflops = machine.gflops_per_core()
    print_line(f"machine: {machine.describe(gflops)}")
    display = open_display(expected_seconds(settings, store), at_once=settings.runtime.stages_at_once)
    unknown = [name for name, row in display.board.waiting.items() if row.expected is None]
    if unknown and can_fork():
        command = plan_command(recipe, sets, planned_rate(gflops, machine.cores(), settings.runtime))
        planning = Planning(command, lambda planned: display.expect(of_rows(planned, unknown)))
        display.closing.callback(planning.stop)
    return display


def stays_in_place() -> bool:
    """Whether standard output is a terminal on which a table can be drawn again in its place."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb") and "CI" not in os.environ
