"""The record of a benchmark: its name, groups and rules, and the functions that load, prompt and score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mirage_core.benchmarks.auxiliary_input import has_auxiliary_input, labelled
from mirage_core.benchmarks.regions import Region, given_regions
from mirage_core.benchmarks.vsp_prompts import PromptForm
from mirage_core.errors import DataError, SettingsError
from mirage_core.types import Problem, Score, Split, Variant

PLANNING_RULES = ("mirage", "vsp")
OFFICIAL = "official"
"""What every benchmark calls its authors' own rule, whatever that rule's name."""


class LoadFunction(Protocol):
    """Reads the rows of a published file; DataError names file and line."""

    def __call__(self, file: Path, split: Split = "test") -> list[Problem]: ...


class ScoreFunction(Protocol):
    """Scores one output of a model."""

    def __call__(self, problem: Problem, output: str, rule: str = ...) -> Score: ...


class PromptFunction(Protocol):
    """Returns the prompt of a problem, with one ``<image>`` an image."""

    def __call__(self, problem: Problem, form: PromptForm, variant: Variant) -> str: ...


@dataclass(frozen=True, slots=True)
class OptionOrders:
    """A protocol that asks every question in several orders of its options, since models favour some positions.

    The id of a problem is its question's, a hyphen and the number of the order, so that answers can be grouped without
    the problems. ``per_row``: a row of the data is a question, asked in all orders; else a row is one order.
    """

    name: str
    count: int
    per_row: bool

    def parse_id(self, problem_id: str) -> tuple[str, int] | None:
        """Split a problem's id into its question and order, counted from 0; None for an id of another form."""
        question, _, order = problem_id.rpartition("-")
        if not question or not order.isdecimal() or int(order) >= self.count:
            return None
        return question, int(order)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark; the first of its ``rules`` is the default, ``source`` the hub id of the published data.

    ``official`` names the authors' own rule among ``rules``; None: its authors have published none.
    ``official_prompt`` builds their prompt where the problem's facts do not have it. ``undecided``: whether their rule
    leaves an output to a judge model; None: it never does. ``own_regions``: what its answers are about, where the world
    knows it and the data set gives no boxes.
    """

    name: str
    groups: tuple[str, ...]
    rules: tuple[str, ...]
    load: LoadFunction
    score: ScoreFunction
    plain_prompt: PromptFunction
    orders: OptionOrders | None = None
    source: str | None = None
    official: str | None = None
    official_prompt: Callable[[Problem], str] | None = None
    undecided: Callable[[Problem, str], bool] | None = None
    own_regions: Callable[[Problem], tuple[Region, ...]] | None = None

    def rule_of(self, name: str | None) -> str:
        """The rule of a name: None is the default, ``official`` the authors' own.

        SettingsError for one that the benchmark does not have, or if its authors have published none.
        """
        if name == OFFICIAL and self.official is None:
            raise SettingsError(
                f"the authors of {self.name} have published no rule: choose one of {', '.join(self.rules)}"
            )
        rule = self.rules[0] if name is None else self.official if name == OFFICIAL else name
        if rule is None or rule not in self.rules:
            raise SettingsError(f"{self.name} has no rule {name!r}; known: {', '.join((*self.rules, OFFICIAL))}")
        return rule

    def regions(self, problem: Problem) -> tuple[Region, ...]:
        """The regions of a problem's first image that its answer is about, one for each latent span.

        DataError where neither the problem nor its benchmark knows any.
        """
        found = given_regions(problem) or (self.own_regions(problem) if self.own_regions else ())
        if not found or not problem.images:
            raise DataError(
                f"problem {problem.id} of {self.name} has no boxes on an image, which LVR holds latents to: give it "
                "boxes (docs/data.md), or train by another method"
            )
        return found

    def prompt(self, problem: Problem, form: PromptForm, variant: Variant) -> str:
        """The prompt of a problem, with one ``<image>`` an image; an auxiliary image among them is labelled."""
        prompt = self.plain_prompt(problem, form, variant)
        return labelled(prompt) if has_auxiliary_input(problem) else prompt


def check_rule(rule: str, rules: Sequence[str], benchmark: str) -> None:
    """Raise SettingsError for a rule the benchmark does not know.

    The rules of planning are accepted everywhere, so that one setting serves all benchmarks.
    """
    if rule not in (*rules, *PLANNING_RULES):
        raise SettingsError(f"unknown rule {rule!r} for {benchmark}; expected one of {', '.join(rules)}")
