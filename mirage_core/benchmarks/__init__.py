"""The registry of benchmarks: how each loads, prompts and scores, and the users' own tasks in use."""

from __future__ import annotations

import difflib
import threading

from mirage_core.benchmarks import (
    blink,
    comt,
    hr_bench,
    jigsaw,
    mental_rotation,
    mme_realworld,
    paper_folding,
    sat,
    tablevqa,
    vsp_folder,
    vsp_planning,
    vsp_reasoning,
    vstar,
)
from mirage_core.benchmarks.benchmark import OFFICIAL, Benchmark, OptionOrders
from mirage_core.benchmarks.custom import jsonl_data
from mirage_core.benchmarks.custom.task import OwnTask, load_task
from mirage_core.config import ProblemSettings
from mirage_core.errors import InputError
from mirage_core.recipes.task_file import read_task

__all__ = ["NAMES", "OFFICIAL", "PUBLIC", "Benchmark", "OptionOrders", "get", "orders_of", "task_of", "use"]

PUBLIC = {
    benchmark.name: benchmark
    for benchmark in (
        *blink.BENCHMARKS,
        vstar.BENCHMARK,
        *hr_bench.BENCHMARKS,
        mme_realworld.BENCHMARK,
        tablevqa.BENCHMARK,
    )
}
"""The benchmarks that are for testing only, by name."""
_TRAINABLE = (
    vsp_planning.BENCHMARK,
    vsp_reasoning.BENCHMARK,
    vsp_folder.BENCHMARK,
    mental_rotation.BENCHMARK,
    paper_folding.BENCHMARK,
    jigsaw.BENCHMARK,
    sat.BENCHMARK,
    comt.BENCHMARK,
    jsonl_data.BENCHMARK,
)
_BENCHMARKS = {benchmark.name: benchmark for benchmark in _TRAINABLE} | PUBLIC
NAMES = tuple(_BENCHMARKS)
_TASKS: dict[str, OwnTask] = {}
_LOADING = threading.Lock()


def use(problems: ProblemSettings) -> OwnTask | None:
    """Register the settings' own task in this process under its name and return it; None if there is none.

    It replaces a task of the same name: the current file counts, or the one whose digest the settings have. Raises
    SettingsError if the file is not a task, or has changed since the settings were read.
    """
    if problems.task is None:
        return None
    with _LOADING:
        _, digest = read_task(problems.task)
        task = next((loaded for loaded in _TASKS.values() if loaded.sha256 == digest), None)
        if task is None:
            task = load_task(problems.task, NAMES)
            _TASKS[task.name] = task
        return task


def task_of(name: str) -> OwnTask | None:
    """The user's own task of a name, None if none is in use."""
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
        f"unknown benchmark {name!r}; known: {', '.join(known)}{hint} (your own task is known where its recipe is used)"
    )


def orders_of(name: str) -> OptionOrders | None:
    """The protocol of a benchmark that asks in several option orders; None for other and unknown names."""
    benchmark = _BENCHMARKS.get(name)
    return benchmark.orders if benchmark else None
