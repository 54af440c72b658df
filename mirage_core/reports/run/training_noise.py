"""How far a difference of two methods moves when everything is trained again, from the committed studies."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml
from scipy import stats

from mirage_core.config import Settings
from mirage_core.recipes import load

FILE = Path(__file__).with_name("training_noise.yaml")
_OF_DATA = ("problems", "auxiliary_images", "prompt", "latent", "model")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingNoise:
    """Half of the 95 % interval round the difference of one run: t(n - 1) times the spread over ``seeds`` runs."""

    half_width: float
    seeds: int
    study: str


def training_noise(
    settings: Settings, benchmark: str, groups: tuple[str, ...], first: str, second: str
) -> TrainingNoise | None:
    """Return the noise of ``first`` less ``second`` on all problems of ``groups``.

    None where no committed study trained both under these settings (the seed and what changes no result apart).
    """
    for entry in _entries():
        levels = entry["benchmarks"].get(benchmark, {})
        sections = entry["methods"]
        if {first, second} <= sections.keys() and set(groups) <= levels.keys() and _is_recipe(settings, entry):
            seeds = zip(
                *(zip(levels[group][first], levels[group][second], strict=True) for group in groups), strict=True
            )
            differences = [fmean(one - other for one, other in pairs) for pairs in seeds]
            quantile = float(stats.t.ppf(0.975, len(differences) - 1))
            return TrainingNoise(half_width=quantile * stdev(differences), seeds=len(differences), study=entry["study"])
    return None


@cache
def _entries() -> tuple[dict[str, Any], ...]:
    return tuple(yaml.safe_load(FILE.read_text(encoding="utf-8")))


def _is_recipe(settings: Settings, entry: dict[str, Any]) -> bool:
    if settings.recipe != entry["recipe"]:
        return False
    recipe = load(entry["recipe"])
    names = (*_OF_DATA, *entry["methods"].values())
    return all(getattr(settings, name) == getattr(recipe, name) for name in names)
