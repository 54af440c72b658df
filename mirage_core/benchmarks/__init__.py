"""The benchmarks by name: how their rows are read, asked and scored; and the user's own task, where one is used."""

from __future__ import annotations

import difflib
import threading

from mirage_core.benchmarks import (
    blink,
    comt,
    hr_bench,
    jigsaw,
    mme_realworld,
    sat,
    tablevqa,
    vsp_planning,
    vsp_reasoning,
    vstar,
)
from mirage_core.benchmarks import vsp_folder as vsp_questions
from mirage_core.benchmarks.benchmark import Ask, Benchmark, Judge, Load, Orders
from mirage_core.benchmarks.custom import jsonl_data as own
from mirage_core.benchmarks.custom.task import OwnTask, load_task
from mirage_core.config import ProblemSettings
from mirage_core.errors import InputError
from mirage_core.recipes.task_file import read_task

__all__ = ["NAMES", "PUBLIC", "Ask", "Benchmark", "Judge", "Load", "Orders", "get", "orders_of", "task_of", "use"]

_OURS = {
    one.NAME: Benchmark(one.NAME, one.GROUPS, one.RULES, one.load, one.score, one.prompt, getattr(one, "ORDERS", None))
    for one in (vsp_planning, vsp_reasoning, vsp_questions, jigsaw, sat, comt, own)
}
_PUBLIC = (
    *blink.BENCHMARKS,
    vstar.BENCHMARK,
    *hr_bench.BENCHMARKS,
    mme_realworld.BENCHMARK,
    tablevqa.BENCHMARK,
)
PUBLIC = {benchmark.name: benchmark for benchmark in _PUBLIC}
"""The benchmarks that are only tested on, by name."""
_BENCHMARKS = {**_OURS, **PUBLIC}
NAMES = tuple(_BENCHMARKS)
_TASKS: dict[str, OwnTask] = {}
_USING = threading.Lock()


def use(problems: ProblemSettings) -> OwnTask | None:
    """Make the own task of the settings known to this process by its name, and return it; None where there is none.

    What was known by that name gives way: the file as it is now counts, or the one whose digest the settings hold.
    Raises SettingsError when the file is no task, or has changed since the settings were read.
    """
    if problems.task is None:
        return None
    with _USING:
        _, digest = read_task(problems.task)
        task = next((known for known in _TASKS.values() if known.sha256 == digest), None)
        if task is None:
            task = load_task(problems.task, NAMES)
            _TASKS[task.name] = task
        return task


def task_of(name: str) -> OwnTask | None:
    """The user's own task of a name, None where none is in use."""
    return _TASKS.get(name)


def get(name: str) -> Benchmark:
    """The benchmark of a name; InputError lists the known ones."""
    if name in _BENCHMARKS:
        return _BENCHMARKS[name]
    task = task_of(name)
    if task is not None:
        return Benchmark(task.name, task.groups, task.rules, task.load, task.score, task.prompt)
    known = (*NAMES, *_TASKS)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(
        f"unknown benchmark {name!r}; known: {', '.join(known)}{hint} (a task of your own is known where its recipe is)"
    )


def orders_of(name: str) -> Orders | None:
    """The protocol of a benchmark that asks in several orders; None for the others and for unknown names."""
    found = _BENCHMARKS.get(name)
    return found.orders if found else None
