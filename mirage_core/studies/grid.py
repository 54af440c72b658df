"""The grid of a study: one run a cell and seed, with its resolved settings and the command that runs it alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

import yaml

from mirage_core.config import Measure, Settings
from mirage_core.errors import SettingsError
from mirage_core.methods import get_method
from mirage_core.recipes import load
from mirage_core.recipes.renames import set_in_current_words
from mirage_core.studies.spec import Cell, Study


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRun:
    """One cell under one seed. ``sets``: its changes of the recipe's settings, as the command takes them."""

    cell: Cell
    seed: int
    recipe: str
    sets: tuple[str, ...]
    settings: Settings = field(repr=False)
    measures: tuple[Measure, ...] = ()

    @property
    def name(self) -> str:
        """``mirage-direct/42``."""
        return f"{self.cell.name}/{self.seed}"

    @property
    def command(self) -> str:
        """The shell command that runs this cell alone."""
        return f"mirage run {self._options}"

    @property
    def diagnosis(self) -> str:
        """The shell command that measures this cell's latents alone."""
        return f"mirage diagnose {self._options} --measures {','.join(self.measures)}"

    @property
    def _options(self) -> str:
        sets = " ".join(f"--set {shlex.quote(text)}" for text in self.sets)
        return f"--recipe {shlex.quote(self.recipe)} {sets}"


def grid(study: Study, sets: Sequence[str] = ()) -> tuple[CellRun, ...]:
    """Return every cell under every seed, seed by seed.

    ``sets`` (``"a.b=c"``) override the study's settings, and a cell's own override them. SettingsError names the cell
    whose settings are not valid, or a setting that only the study may choose.
    """
    for text in sets:
        if text.partition("=")[0].strip() in ("seed", "evaluation.methods"):
            raise SettingsError(f"got {text}, but a study chooses seeds and methods: --seeds 1,2,3, or its cells")
    current = [set_in_current_words(text) for text in sets]
    return tuple(_run(study, cell, seed, current) for seed in study.seeds for cell in study.all_cells())


def _run(study: Study, cell: Cell, seed: int, sets: Sequence[str]) -> CellRun:
    overrides = (
        *_as_sets(study.overrides),
        *sets,
        *_as_sets(cell.overrides),
        f"evaluation.methods=[{cell.method}]",
        f"seed={seed}",
    )
    try:
        settings = load(study.recipe, overrides)
    except SettingsError as error:
        raise SettingsError(f"cell {cell.name} of the study {study.name}: {error}") from error
    if get_method(cell.method).uses_grpo and not settings.grpo.enabled:
        raise SettingsError(f"cell {cell.name} of the study {study.name} needs grpo.enabled=true")
    return CellRun(
        cell=cell, seed=seed, recipe=study.recipe, sets=overrides, settings=settings, measures=study.measures
    )


def _as_sets(overrides: dict[str, object]) -> tuple[str, ...]:
    return tuple(f"{name}={_written(value)}" for name, value in overrides.items())


def _written(value: object) -> str:
    """Return a value for the shell: a word that YAML reads as itself stays plain."""
    plain = isinstance(value, str) and value.isprintable() and yaml.safe_load(value) == value
    return str(value) if plain else json.dumps(value, ensure_ascii=False)
