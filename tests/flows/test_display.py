"""What a person sees of a run: a table in a terminal that stays in place, a few lines anywhere else."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from flows.display.board import Board, Row, duration
from flows.display.display import Lines, Silent
from flows.display.expected import Planning, expected_seconds, of_rows, planned_rate
from flows.display.sparkline import sparkline
from flows.display.table import LiveTable, fitting
from mirage_core.config import RuntimeSettings
from mirage_core.pipeline.runner import run_in_process
from mirage_core.store import Store
from mirage_core.types import ProgressEvent
from tasks.log_lines import event_of, line_of
from tests.pipeline.fakes import fake_stages, settings

FIGURES = {
    "loss": 0.5, "text": 0.5, "dense": 0.1, "cell_accuracy": 0.75, "learning_rate": 1e-3, "steps_per_second": 4.0,
    "tokens_per_second": 900.0,
}  # fmt: skip
PROGRAM = """
import time
from flows.commands.open_display import open_display
from mirage_core.types import ProgressEvent
display = open_display({"problems": 0.0, "film": 100.0, "report": 10.0})
with display:
    display.say("a warning that stays")
    display.progress(ProgressEvent(stage="problems", state="cached", message="cached: problems/1"))
    display.progress(ProgressEvent(stage="film", state="started", message="started: model/2"))
    for step in range(1, 5):
        metrics = {"loss": 1 / step, "steps_per_second": 4.0}
        display.progress(ProgressEvent(stage="film", step=25 * step, total=400, metrics=metrics))
        display._live.refresh() if hasattr(display, "_live") else None
    END
print("the scores")
"""


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(**expected: float | None) -> tuple[Lines, io.StringIO, Clock]:
    """A display of lines with its output and its clock."""
    output, clock = io.StringIO(), Clock()
    console = Console(file=output, width=200, highlight=False)
    return Lines(console, Board(expected, clock)), output, clock


def step(number: int, **metrics: float) -> ProgressEvent:
    """A step of the film, of 100."""
    return ProgressEvent(stage="film", step=number, total=100, metrics=metrics)


def in_terminal(end: str, **environment: str) -> tuple[str, list[str]]:
    """What the program writes to a pseudo-terminal, and the lines that are on its screen at the end."""
    master, slave = pty.openpty()
    kept = {name: value for name, value in os.environ.items() if name != "CI"}
    variables = {**kept, "TERM": "xterm", "COLUMNS": "110", "LINES": "30", **environment}
    command = [sys.executable, "-c", PROGRAM.replace("END", end)]
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=variables, cwd=Path(__file__).parents[2]
    )
    os.close(slave)
    written = b""
    try:
        while part := os.read(master, 65536):
            written += part
    except OSError:  # the other side is closed
        pass
    process.wait()
    os.close(master)
    text = written.decode()
    return text, screen(text)


def screen(text: str) -> list[str]:
    """The lines that a terminal shows after this output: carriage returns, cursor up, and erased lines."""
    shown, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if token == "\n":
            row += 1
            shown += [""] * (row + 1 - len(shown))
        elif token == "\r":
            column = 0
        elif re.fullmatch(r"\x1b\[\d*A", token):
            row = max(0, row - int(token[2:-1] or 1))
        elif token == "\x1b[2K":
            shown[row] = ""
        elif not token.startswith("\x1b"):
            shown[row] = shown[row][:column].ljust(column) + token + shown[row][column + len(token) :]
            column += len(token)
    return [line.rstrip() for line in shown]


def test_in_a_terminal_one_table_stays_in_place_and_the_scores_take_it() -> None:
    written, shown = in_terminal("pass")

    assert "\x1b[1A" in written and "\x1b[2K" in written, "it is drawn again in its place"
    drawn = [line for line in screen(written.rpartition("\x1b[1A\x1b[2K")[0].rpartition("loss 0.25")[0]) if line]
    assert [line for line in drawn if line.startswith("stage ")] == [drawn[1]], "one table is on the screen"
    assert re.search(
        r"film +running .* 100/400 +4 +loss 0\.25 +█\S+ +1 min 15 s",
        re.sub(r"[━╸╺]", "", screen_with(written, "loss 0.25")),
    ), drawn
    assert [line for line in shown if line] == ["a warning that stays", "the scores"]


def screen_with(written: str, figure: str) -> str:
    """The row with this figure as it was drawn last."""
    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", written)
    return next(line for line in reversed(plain.splitlines()) if figure in line)


def test_the_table_stays_where_the_run_failed() -> None:
    _, shown = in_terminal("raise SystemExit('stopped')")

    assert any(re.match(r"film +failed", line) for line in shown), shown
    assert shown[-2:] == ["stopped", ""] or "stopped" in shown


def test_the_same_words_with_other_numbers_are_a_line_a_minute() -> None:
    display, output, clock = lines()
    display.begin("1", "film")
    for count in range(1, 91):
        clock.now = 1.0 * count
        display.take("1", ProgressEvent(stage="film", message=f"prepared {count} of 90 examples"))
    display.take("1", ProgressEvent(stage="film", message="trains"))

    assert output.getvalue().splitlines() == [
        "  film: running", "  film prepared 1 of 90 examples", "  film prepared 61 of 90 examples", "  film trains"
    ]  # fmt: skip


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"CI": "true"}])
def test_a_terminal_that_cannot_move_its_cursor_and_a_ci_get_lines(environment: dict[str, str]) -> None:
    written, shown = in_terminal("pass", **environment)

    assert "\x1b[1A" not in written
    assert "  film: running, about 1 min 40 s" in shown and "  problems: cached" in shown


def test_lines_are_one_where_a_stage_begins_and_ends_and_one_a_minute_between() -> None:
    display, output, clock = lines(film=300.0, report=20.0)
    display.progress(ProgressEvent(stage="film", state="started", message="started: model/1"))
    for second in range(1, 101):
        clock.now = 2.0 * second
        display.progress(step(second, **FIGURES))
    display.progress(ProgressEvent(stage="film", state="done", message="done in 200.0 s: model/1"))

    assert output.getvalue().splitlines() == [
        "  film: running, about 5 min 00 s",
        "  film 30/100, loss 0.5, cell_accuracy 0.75, 4 steps/s, 18 s left, about 38 s left of the road",
        "  film 60/100, loss 0.5, cell_accuracy 0.75, 4 steps/s, 10 s left, about 30 s left of the road",
        "  film 90/100, loss 0.5, cell_accuracy 0.75, 4 steps/s, 2 s left, about 22 s left of the road",
        "  film: done in 200.0 s, loss 0.5, cell_accuracy 0.75",
    ]


def test_what_a_stage_says_is_printed_and_lines_after_its_end_are_not() -> None:
    display, output, _ = lines()
    display.begin("1", "film")
    display.take("1", ProgressEvent(stage="film", message="resumes from the checkpoint of step 50"))
    display.end("1", "film", "done", 3.0)
    display.take("1", step(100, loss=0.25))
    display.take("2", ProgressEvent(stage="study", message="cell 1 of 2 begins"))

    assert output.getvalue().splitlines() == [
        "  film: running", "  film resumes from the checkpoint of step 50", "  film: done in 3.0 s",
        "  study cell 1 of 2 begins",
    ]  # fmt: skip


def test_two_stages_of_one_name_have_rows_of_their_own() -> None:
    display, _, _ = lines()
    for key in ("seed 1", "seed 2"):
        display.begin(key, "film")
    display.take("seed 2", step(7))

    assert [(row.name, row.step) for row in display.board.rows] == [("film", 0), ("film", 7)]


def test_the_next_stage_of_a_name_in_one_thread_begins_anew() -> None:
    display, output, clock = lines()
    for began, ended in ((0.0, 5.0), (100.0, 107.0)):
        clock.now = began
        display.progress(ProgressEvent(stage="film", state="started", message="started: model/1"))
        clock.now = ended
        display.progress(step(100, **({"loss": 0.5} if began == 0 else {})))
        display.progress(ProgressEvent(stage="film", state="done", message="done: model/1"))

    assert output.getvalue().splitlines() == [
        "  film: running", "  film: done in 5.0 s, loss 0.5", "  film: running", "  film: done in 7.0 s",
    ]  # fmt: skip


def test_the_time_left_comes_from_the_pace_and_before_that_from_what_is_expected() -> None:
    clock = Clock()
    board = Board({"film": 50.0, "report": None}, clock)
    row = board.row("1", "film")
    clock.now = 10.0
    assert (row.left(10.0), board.left()) == (40.0, "at least 40 s left of the road")
    row.report(step(10), 10.0)
    row.report(step(20), 15.0)
    assert row.rate == 2.0 and row.left(15.0) == 40.0
    assert row.left(18.0) == 37.0, "seconds pass between two reports"
    board.expect({"report": 5.0, "film": 1.0})
    clock.now = 15.0
    assert board.left() == "about 45 s left of the road"
    board.end("1", "film", "done")
    assert (row.left(99.0), row.share, row.seconds) == (0.0, 1.0, 15.0)


def test_of_stages_side_by_side_the_slots_share_the_time_that_is_left_but_not_that_of_one_stage() -> None:
    assert Board({"film": 50.0, "direct-sft": 40.0, "report": 30.0}, Clock(), at_once=2).left() == (
        "about 1 min 00 s left of the road"
    )
    assert Board({"film": 50.0, "report": 30.0}, Clock(), at_once=2).left() == "about 50 s left of the road"


def test_a_stage_that_takes_longer_than_expected_is_never_about_to_end() -> None:
    assert Row("report", state="running", expected=10.0, at=0.0).left(100.0) == pytest.approx(5.0)


def test_a_terminal_too_low_for_all_rows_shows_what_runs_and_what_is_next() -> None:
    states = ["done"] * 6 + ["running"] + ["waiting"] * 6
    rows = [Row(str(number), state=state) for number, state in enumerate(states)]  # type: ignore[arg-type]

    assert [row.name for row in fitting(rows, 5)] == ["4", "5", "6", "7", "8"]
    assert fitting(rows, 20) == rows
    assert [row.name for row in fitting(rows, 1)] == ["6"]


def test_a_curve_falls_and_rises_in_a_few_characters() -> None:
    assert sparkline([3, 2, 1, 0, 1, 2, 3], width=7) == "█▆▃▁▃▆█"
    assert sparkline([float(number) for number in range(100)], width=4) == "▁▃▆█"
    assert sparkline([1.0, 1.0, float("nan")]) == "▁▁" and sparkline([1.0]) == ""


@pytest.mark.parametrize(
    "event",
    [
        ProgressEvent(stage="film", step=3, total=10, metrics={"loss": 0.25, "cosine": -1e-07}),
        ProgressEvent(stage="film", step=3, total=10, message="oracle"),
        ProgressEvent(stage="film", step=3, metrics={"reward": 1.0}, message="saved, 2 of 3"),
        ProgressEvent(stage="film", message="4 rows read"),
        ProgressEvent(stage="film", message="resumes from step 3"),
    ],
)
def test_a_log_line_says_the_event_that_it_was_written_from(event: ProgressEvent) -> None:
    assert event_of("film", line_of("film", event)) == event


def test_of_many_figures_a_line_has_the_main_ones() -> None:
    assert line_of("film", step(3, **FIGURES)) == "film 3/100 loss 0.5, cell_accuracy 0.75, steps_per_second 4"


def test_silence_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Silent(Console()) as display:
        display.progress(ProgressEvent(stage="film", state="started"))
        display.progress(step(1))
        display.say("a fault")

    assert capsys.readouterr().out == ""


def test_an_earlier_run_says_how_long_the_stages_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_stages(monkeypatch)
    store, first = Store.open(str(tmp_path)), settings()
    assert set(expected_seconds(first, store).values()) == {None}
    run_in_process(first, store, lambda event: None)

    assert set(expected_seconds(first, store).values()) == {0.0}
    other = expected_seconds(settings(seed=9), store)
    assert other["relaxation"] is not None and list(other)[-1] == "report"


def test_the_plan_s_evaluation_is_that_of_all_methods() -> None:
    planned = {"film": 60.0, "evaluation": 10.0}
    assert of_rows(planned, ["film", "evaluation/film", "blind-evaluation/film", "report"]) == {
        "film": 60.0, "evaluation/film": 5.0, "blind-evaluation/film": 5.0,
    }  # fmt: skip
    alone, both = (RuntimeSettings(processes=number, threads=1) for number in (1, 2))
    assert planned_rate(100.0, 2, alone) == planned_rate(100.0, 2, both) == 2 * planned_rate(100.0, 1, both)


def test_a_plan_is_made_beside_a_run_that_lasts() -> None:
    found: list[dict[str, float]] = []
    said = json.dumps({"stages": [{"name": "film", "hours": 0.5}]})
    planning = Planning([sys.executable, "-c", f"print({said!r})"], found.append, after_s=0.0)
    deadline = time.monotonic() + 60
    while not found and time.monotonic() < deadline:
        time.sleep(0.05)
    planning.stop()

    assert found == [{"film": 1800.0}]


def test_a_plan_ends_with_its_run_and_is_not_begun_for_a_short_one(tmp_path: Path) -> None:
    found: list[dict[str, float]] = []
    begun = tmp_path / "begun"
    sleeps = [sys.executable, "-c", f"import pathlib, time; pathlib.Path({str(begun)!r}).touch(); time.sleep(600)"]
    display, _, _ = lines()
    short = Planning(sleeps, found.append, after_s=3600.0)
    display.closing.callback(short.stop)
    with display:
        pass
    short._timer.join(30)
    assert not short._timer.is_alive()

    long = Planning(sleeps, found.append, after_s=0.0)
    deadline = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    long.stop()
    long._timer.join(30)

    assert begun.exists() and not long._timer.is_alive() and found == []


def test_hours_minutes_and_seconds_are_said_as_people_do() -> None:
    assert [duration(seconds) for seconds in (8.4, 200, 3900)] == ["8 s", "3 min 20 s", "1 h 05 min"]


def test_a_table_shows_what_a_stage_says_below_it() -> None:
    output = io.StringIO()
    with LiveTable(Console(file=output, width=80, height=20, force_terminal=True), Board()) as table:
        table.begin("1", "film")
        table.take("1", ProgressEvent(stage="film", message="resumes from the checkpoint of step 50"))
        table._live.refresh()
    assert "film resumes from the checkpoint of step 50" in output.getvalue()
