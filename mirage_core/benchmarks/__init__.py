"""The benchmarks by name: how their rows are read, asked and scored; and the user's own task, where one is used."""

from __future__ import annotations

import difflib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mirage_core.benchmarks import comt, jigsaw, own, sat, vsp_planning, vsp_questions, vsp_reasoning
from mirage_core.benchmarks.task import OwnTask, load_task
from mirage_core.benchmarks.vsp_prompts import PromptForm
from mirage_core.config import ProblemSettings
from mirage_core.errors import InputError
from mirage_core.recipes.task_file import read_task
from mirage_core.types import Problem, Score, Split, Variant


class Load(Protocol):
    """Read the rows of a published file; DataError names file and line."""

    def __call__(self, file: Path, split: Split = "test") -> list[Problem]: ...


class Judge(Protocol):
    """Score one output of a model."""

    def __call__(self, problem: Problem, output: str, rule: str = ...) -> Score: ...


class Ask(Protocol):
    """The prompt of a problem, with one ``<image>`` a picture."""

    def __call__(self, problem: Problem, form: PromptForm, variant: Variant) -> str: ...


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark: its name, what accuracy is broken down by, its scoring rules, and its three functions."""

    name: str
    groups: tuple[str, ...]
    rules: tuple[str, ...]
    load: Load
    score: Judge
    prompt: Ask


_BENCHMARKS = {
    module.NAME: Benchmark(module.NAME, module.GROUPS, module.RULES, module.load, module.score, module.prompt)
    for module in (vsp_planning, vsp_reasoning, vsp_questions, jigsaw, sat, comt, own)
}
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
