"""What a benchmark is: a name, groups to break accuracy down by, rules, and how its rows are read, asked and judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mirage_core.benchmarks.auxiliary_input import has_auxiliary_input, labelled
from mirage_core.benchmarks.vsp_prompts import PromptForm
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
class Orders:
    """A protocol that asks every question in several orders of its options, since models favour a place.

    The id of a problem is its question's, a hyphen and the number of the order: a set of answers needs no problems
    to be put together. ``per_row``: a row of the data is a question, asked in all orders; else a row is one order.
    """

    name: str
    count: int
    words: str
    per_row: bool

    def asked(self, problem_id: str) -> tuple[str, int] | None:
        """The question of a problem and its order, counted from 0; None for an id of another form."""
        question, _, order = problem_id.rpartition("-")
        if not question or not order.isdecimal() or int(order) >= self.count:
            return None
        return question, int(order)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark; the first of its ``rules`` is the default, ``source`` the hub id of the published data."""

    name: str
    groups: tuple[str, ...]
    rules: tuple[str, ...]
    load: Load
    score: Judge
    ask: Ask
    orders: Orders | None = None
    source: str | None = None

    def prompt(self, problem: Problem, form: PromptForm, variant: Variant) -> str:
        """The prompt of a problem, with one ``<image>`` a picture; an auxiliary picture among them is labelled."""
        asked = self.ask(problem, form, variant)
        return labelled(asked) if has_auxiliary_input(problem) else asked
