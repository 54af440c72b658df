"""The benchmarks by name: how their rows are read, asked and scored."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mirage_core.benchmarks import vsp_planning, vsp_reasoning
from mirage_core.benchmarks.vsp_prompts import PromptForm
from mirage_core.errors import InputError
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
    for module in (vsp_planning, vsp_reasoning)
}
NAMES = tuple(_BENCHMARKS)


def get(name: str) -> Benchmark:
    """The benchmark of a name; InputError lists the known ones."""
    if name not in _BENCHMARKS:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"unknown benchmark {name!r}; known: {', '.join(NAMES)}{hint}")
    return _BENCHMARKS[name]
