"""Mazes as local files for lmms-eval and VLMEvalKit: ``python docs/examples/client_mazes.py RECIPE COUNT FOLDER``.

Plans about maps of the recipe's test levels. ``mazes.parquet`` asks in the words that the recipe's models are trained
on, as lmms-tasks/mazes.yaml wants it; ``Mazes.tsv`` holds question and options, which VLMEvalKit puts in its own words.
"""

from __future__ import annotations

import base64
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import datasets

from mirage_core import recipes
from mirage_core.benchmarks.generate import generate_problems
from mirage_core.config import Settings
from mirage_core.errors import InputError
from mirage_core.evaluation.endpoint import question_of
from mirage_core.types import Problem

OPTIONS = {"A": "It reaches the goal.", "B": "It ends in a hole.", "C": "It ends on the ice."}
COLUMNS = {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}


def mazes(settings: Settings, count: int) -> list[Problem]:
    """At least ``count`` test problems of vsp-reasoning, as many of each level."""
    data = settings.problems.vsp_reasoning
    if data is None:
        raise InputError(f"the recipe {settings.recipe} has no problems of vsp-reasoning: take tiny")
    few = data.model_copy(update={"train": 0, "validation": 0, "test_per_level": -(-count // len(data.test_levels))})
    alone = settings.problems.model_copy(update={"vsp_planning": None, "vsp_reasoning": few})
    return generate_problems(alone, settings.seed, lambda _: None)


def write_parquet(path: Path, problems: Sequence[Problem], settings: Settings) -> None:
    """For lmms-eval: the picture, the words after it, and the letter."""
    rows = [
        {
            "image": {"bytes": one.images[0], "path": None},
            "question": question_of(one, settings.prompt.form, settings.teacher.variant).removeprefix("<image>"),
            "answer": one.answer,
        }
        for one in problems
    ]
    datasets.Dataset.from_list(rows, datasets.Features(COLUMNS)).to_parquet(path)


def write_tsv(path: Path, problems: Sequence[Problem]) -> None:
    """For VLMEvalKit: a question of several choices a line, its picture in base64."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["index", "image", "question", *OPTIONS, "answer"])
        for number, one in enumerate(problems):
            picture, asked = base64.b64encode(one.images[0]).decode(), f"Plan: {one.facts['plan']}. Where does it lead?"
            table.writerow([number, picture, asked, *OPTIONS.values(), one.answer])


if __name__ == "__main__":
    recipe, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    found = mazes(recipes.load(recipe), count)
    write_parquet(folder / "mazes.parquet", found, recipes.load(recipe))
    write_tsv(folder / "Mazes.tsv", found)
