"""A study written out: one run a cell and seed, each with its resolved settings and the command that makes it alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

import yaml

from mirage_core.config import Measure, Settings
from mirage_core.errors import SettingsError
from mirage_core.recipes import load
from mirage_core.studies.spec import Cell, Study


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRun:
    """One cell under one seed. ``sets``: what its settings differ in from the recipe's, as the command takes them."""

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
        """What makes this cell, and it alone, out of a shell."""
        return f"mirage run {self._options}"

    @property
    def diagnosis(self) -> str:
        """What measures this cell's latents, and theirs alone, out of a shell."""
        return f"mirage diagnose {self._options} --measures {','.join(self.measures)}"

    @property
    def _options(self) -> str:
        sets = " ".join(f"--set {shlex.quote(one)}" for one in self.sets)
        return f"--recipe {shlex.quote(self.recipe)} {sets}"


def grid(study: Study, sets: Sequence[str] = ()) -> tuple[CellRun, ...]:
    """Every cell under every seed, a seed after the other.

    ``sets`` (``"a.b=c"``) go over the study's settings, and a cell's own go over them. SettingsError names the cell
    whose settings are not valid, or a setting that is the study's to choose.
    """
    for given in sets:
        if given.partition("=")[0].strip() in ("seed", "evaluation.methods"):
            raise SettingsError(f"got {given}, but a study chooses seeds and methods: --seeds 1,2,3, or its cells")
    return tuple(_run(study, cell, seed, sets) for seed in study.seeds for cell in study.all_cells())


def _run(study: Study, cell: Cell, seed: int, sets: Sequence[str]) -> CellRun:
    chosen = (
        *_as_sets(study.overrides),
        *sets,
        *_as_sets(cell.overrides),
        f"evaluation.methods=[{cell.method}]",
        f"seed={seed}",
    )
    try:
        settings = load(study.recipe, chosen)
    except SettingsError as error:
        raise SettingsError(f"cell {cell.name} of the study {study.name}: {error}") from error
    if cell.method.endswith("grpo") and not settings.grpo.enabled:
        raise SettingsError(f"cell {cell.name} of the study {study.name} needs grpo.enabled=true")
    return CellRun(cell=cell, seed=seed, recipe=study.recipe, sets=chosen, settings=settings, measures=study.measures)


def _as_sets(overrides: dict[str, object]) -> tuple[str, ...]:
    return tuple(f"{name}={_written(value)}" for name, value in overrides.items())


def _written(value: object) -> str:
    """A value as a shell is given it: a word that YAML reads as itself stays plain."""
    plain = isinstance(value, str) and value.isprintable() and yaml.safe_load(value) == value
    return str(value) if plain else json.dumps(value, ensure_ascii=False)
