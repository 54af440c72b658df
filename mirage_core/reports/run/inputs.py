"""Input of a run's report, read from the folders of its artifacts; absent ones are left out of the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from mirage_core.benchmarks import NAMES
from mirage_core.config import Settings
from mirage_core.errors import DataError
from mirage_core.evaluation.blind import TEXT_RULE, text_rule
from mirage_core.evaluation.metrics import AccuracyRow, accuracy_rows
from mirage_core.methods import METHODS, TRAIN_STAGES
from mirage_core.model.card import ABOUT_FILE
from mirage_core.reports.curves import Curves, read_curves
from mirage_core.reports.labels import method_order
from mirage_core.store.records import (
    AUXILIARY_IMAGES_FILE,
    EXAMPLES_FILE,
    PREDICTIONS_FILE,
    PROBLEMS_FILE,
    load_auxiliary_images,
    load_examples,
    load_predictions,
    load_problems,
)
from mirage_core.training.data.visual_tokens.code_sheet import CodeSheet
from mirage_core.types import AuxiliaryImage, Problem, Scored, TrainingExample

EVALUATION = "evaluation/"
BLIND = "blind-evaluation/"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReportInputs:
    """Input of a report. ``abouts``: mirage.json of each trained folder; ``parameters``: of the base model; ``blind``:
    answers without the picture, by the text-only rule and by methods that were evaluated so; ``code_sheets``: what
    codes look like, by the stage whose model writes them."""

    settings: Settings
    problems: Mapping[str, Problem]
    auxiliary_images: Mapping[str, AuxiliaryImage]
    examples: tuple[TrainingExample, ...]
    scored: tuple[Scored, ...]
    rows: tuple[AccuracyRow, ...]
    curves: Mapping[str, Curves]
    abouts: Mapping[str, Mapping[str, Any]]
    parameters: int | None
    blind: tuple[Scored, ...] = ()
    code_sheets: Mapping[str, CodeSheet] = field(default_factory=dict)

    def code_sheet(self, method: str) -> CodeSheet | None:
        """Return what the codes of a method's answers look like; None where its model writes none."""
        return self.code_sheets.get(METHODS[method].stage) if method in METHODS else None

    @property
    def arithmetic(self) -> tuple[str, ...]:
        """Return the kinds of arithmetic that the models were trained with, each once."""
        trained = (about["history"][-1] for about in self.abouts.values() if about.get("history"))
        return tuple(sorted({chapter["arithmetic"] for chapter in trained if "arithmetic" in chapter}))

    @property
    def blind_rows(self) -> tuple[AccuracyRow, ...]:
        """The score table's lines of answers without the picture, the text-only rule first."""
        rows = accuracy_rows(self.blind)
        return tuple(sorted(rows, key=lambda row: (row.method != TEXT_RULE, method_order(row.method))))

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Evaluated benchmarks, in the project's order."""
        present = {row.benchmark for row in self.rows}
        return tuple(name for name in NAMES if name in present) + tuple(sorted(present - set(NAMES)))

    @property
    def methods(self) -> tuple[str, ...]:
        """Evaluated methods, in the pipeline's order."""
        return tuple(sorted({row.method for row in self.rows}, key=method_order))

    def row(self, benchmark: str, method: str, group: str) -> AccuracyRow | None:
        """Return one line of the score table; None where it was not evaluated."""
        key = (benchmark, method, group)
        return next((row for row in self.rows if (row.benchmark, row.method, row.group) == key), None)


def read_inputs(settings: Settings, folders: Mapping[str, Path]) -> RunReportInputs:
    """Read the folders of a run, by stage name; evaluations are named ``evaluation/<method>``.

    Raises:
        DataError: an evaluation's folder holds the answers of another method.
    """
    scored = tuple(pair for name in sorted(folders) for pair in _read_evaluation(name, folders[name]))
    blind = tuple(pair for name in sorted(folders) for pair in _read_blind(name, folders[name]))
    problems = _read(folders, "problems", PROBLEMS_FILE, load_problems)
    images = _read(folders, "auxiliary-images", AUXILIARY_IMAGES_FILE, load_auxiliary_images)
    trained = {name: folders[name] for name in ("base", *TRAIN_STAGES) if name in folders}
    return RunReportInputs(
        settings=settings,
        problems={problem.id: problem for problem in problems},
        auxiliary_images={image.problem_id: image for image in images},
        examples=tuple(_read(folders, "examples", EXAMPLES_FILE, load_examples)),
        scored=scored,
        rows=tuple(accuracy_rows(scored)),
        curves={name: curves for name, folder in trained.items() if (curves := read_curves(folder))},
        abouts={name: _read_about(folder) for name, folder in trained.items()},
        parameters=count_parameters(folders["base"]) if "base" in folders else None,
        blind=(*_text_rule(problems, scored, settings), *blind),
        code_sheets={name: sheet for name, folder in trained.items() if (sheet := CodeSheet.load(folder)) is not None},
    )


def _text_rule(problems: Sequence[Problem], scored: Sequence[Scored], settings: Settings) -> list[Scored]:
    """Return the rule's answers to the problems that were evaluated, judged by the same rule."""
    evaluated = {prediction.problem_id for prediction, _ in scored}
    asked = [problem for problem in problems if problem.id in evaluated]
    return text_rule(problems, asked, settings.evaluation.planning_rule)


def count_parameters(folder: Path) -> int | None:
    """Count the parameters of a model folder from the headers of its safetensors; None without any."""
    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                total += size
    return total or None


def _read(folders: Mapping[str, Path], name: str, file: str, load: Any) -> list[Any]:
    return list(load(folders[name] / file)) if name in folders else []


def _read_about(folder: Path) -> Mapping[str, Any]:
    path = folder / ABOUT_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _read_blind(name: str, folder: Path) -> list[Scored]:
    return list(load_predictions(folder / PREDICTIONS_FILE)) if name.startswith(BLIND) else []


def _read_evaluation(name: str, folder: Path) -> list[Scored]:
    if not name.startswith(EVALUATION):
        return []
    scored = load_predictions(folder / PREDICTIONS_FILE)
    method = name.removeprefix(EVALUATION)
    others = {prediction.method for prediction, _ in scored} - {method}
    if others:
        raise DataError(
            f"{folder} was passed as {name}, but has answers of {sorted(others)}; known methods: {', '.join(METHODS)}"
        )
    return list(scored)
