"""A study's specification: a recipe, seeds, a baseline, and cells that differ from the recipe in a few settings."""

from __future__ import annotations

from collections import Counter
from typing import Any

from pydantic import Field, field_validator, model_validator

from mirage_core.config import Measure, Method, Section
from mirage_core.config.section import Scalar

NAME = r"^[a-z0-9][a-z0-9.-]*$"


class Cell(Section):
    """One method under one set of settings: a row of the study's table."""

    name: str = Field(pattern=NAME, description="Its name in commands and files.")
    label: str = Field("", description="Its name for people; empty: the name.")
    method: Method = Field(description="What is trained and judged, as in evaluation.methods.")
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Settings that differ from the recipe's: {teacher.variant: cot}."
    )
    published: bool = Field(
        True, description="Whether the paper's figure of this method may stand beside it; never beside other settings."
    )
    swept: tuple[str, Scalar] | None = Field(None, description="The setting that a sweep varies, and its value here.")

    @property
    def shown(self) -> str:
        """Its name for people."""
        return self.label or self.name


class Sweep(Section):
    """Cells that differ in the value of one setting."""

    sweep: str = Field(min_length=1, description="The setting, by its dotted name: latent.num_latents.")
    values: tuple[Scalar, ...] = Field(min_length=1, description="Its values, a cell each.")
    method: Method = Field(description="The method of every cell.")
    name: str = Field(
        "", pattern=r"^([a-z0-9][a-z0-9.-]*)?$", description="Stem of the cells' names; empty: the setting."
    )
    label: str = Field("{setting} = {value}", description="Their name for people, with room for setting and value.")
    overrides: dict[str, Any] = Field(default_factory=dict, description="Settings that all of them share.")
    published: bool = Field(True, description="Whether the paper's figure of that very value may stand beside a cell.")

    @field_validator("label")
    @classmethod
    def _has_known_places(cls, label: str) -> str:
        if {"{", "}"} & set(label.replace("{setting}", "").replace("{value}", "")):
            raise ValueError(f"the label is {label!r:.80}: expected no other places than {{setting}} and {{value}}")
        return label

    def cells(self) -> tuple[Cell, ...]:
        """Return one cell a value: ``num-latents-2``, or ``<name>-2``."""
        setting = self.sweep.rpartition(".")[2]
        stem = self.name or setting.replace("_", "-")
        return tuple(
            Cell(
                name=f"{stem}-{str(value).lower().replace('_', '-')}",
                label=self.label.replace("{setting}", setting.replace("_", " ")).replace("{value}", str(value)),
                method=self.method,
                overrides={**self.overrides, self.sweep: value},
                published=self.published,
                swept=(self.sweep, value),
            )
            for value in self.values
        )


class Study(Section):
    """A grid of runs, as specified."""

    name: str = Field(pattern=NAME, description="The study's name; by default its file's.")
    description: str = Field("", description="The question it answers.")
    recipe: str = Field(description="The recipe that every cell starts from: a name, or a YAML file beside the study.")
    seeds: tuple[int, ...] = Field((42,), min_length=1, description="A repeat of every cell for each.")
    baseline: str = Field(description="The cell that all others are tested against.")
    overrides: dict[str, Any] = Field(default_factory=dict, description="Settings of all cells, over the recipe's.")
    measures: tuple[Measure, ...] = Field(
        (), description="What is measured of every cell that answers with latents, as in analysis.measures."
    )
    cells: tuple[Sweep | Cell, ...] = Field(min_length=1, description="Cells, and sweeps that stand for several.")
    selected: tuple[str, ...] = Field((), description="The cells chosen by name; empty: all.")

    @model_validator(mode="after")
    def _is_a_grid(self) -> Study:
        """Names of cells and seeds are unique; the baseline is one of the cells."""
        names = [cell.name for cell in self.all_cells()]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"two cells are called {twice[0]!r}: give each its own name")
        if self.baseline not in names:
            raise ValueError(f"the baseline {self.baseline!r} is no cell; expected one of {', '.join(names)}")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"the seeds are {list(self.seeds)}: expected different numbers from 0 on")
        return self

    def all_cells(self) -> tuple[Cell, ...]:
        """Return every cell, sweeps written out, in the order of the file."""
        return tuple(cell for entry in self.cells for cell in (entry.cells() if isinstance(entry, Sweep) else (entry,)))
