"""A small study without a model: hand-written answers, and the input of its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mirage_core.reports.study.inputs import CellBudget, CellReportInput, RunReportInput, StudyReportInput
from mirage_core.store.records import PREDICTIONS_FILE, save_predictions
from mirage_core.types import Prediction, Score

BENCHMARK = "vsp-planning"


def scored(right: str, method: str = "m", benchmark: str = BENCHMARK) -> list[tuple[Prediction, Score]]:
    """One answer a character: ``1`` right, ``0`` wrong, ``?`` not read; levels 3 and 4 in turns."""
    return [
        (
            Prediction(
                problem_id=f"{benchmark}-{number}",
                benchmark=benchmark,
                group=f"level-{3 + number % 2}",
                method=method,
                output="x",
                token_ids=(1, 2),
                spans=(),
                finished=True,
            ),
            Score(
                problem_id=f"{benchmark}-{number}",
                correct=mark == "1",
                parsed=None if mark == "?" else "R",
                rule="mirage",
            ),
        )
        for number, mark in enumerate(right)
    ]


def cell(name: str, seeds: Sequence[int], **changes: object) -> CellReportInput:
    """A completed cell, each seed with its own problems."""
    settings = {
        "name": name,
        "label": name.replace("-", " "),
        "method": "direct-sft",
        "variant": "direct",
        "published": True,
        "runs": tuple(run(name, seed) for seed in seeds),
    }
    return CellReportInput.model_validate({**settings, **changes})


def run(name: str, seed: int, seconds: float = 10.0) -> RunReportInput:
    """A completed run of a cell."""
    return RunReportInput(
        seed=seed,
        state="Completed",
        command=f"mirage run --set seed={seed}",
        evaluation=f"{name}/{seed}",
        problems=f"problems-{seed}",
        budget=CellBudget(text_steps=100, examples=3200, tokens=5000, seconds=seconds),
    )


def study(cells: Sequence[CellReportInput], seeds: Sequence[int], baseline: str) -> StudyReportInput:
    """The study of these cells."""
    return StudyReportInput(
        name="by-hand",
        description="What <b>?</b>",
        recipe="tiny-paper",
        baseline=baseline,
        seeds=tuple(seeds),
        cells=tuple(cells),
        command="mirage study by-hand",
    )


def folders(at: Path, answers: Mapping[str, Sequence[tuple[Prediction, Score]]]) -> dict[str, Path]:
    """Write the answers as evaluations do, by the run's name."""
    paths = {}
    for name, pairs in answers.items():
        folder = at / name
        folder.mkdir(parents=True)
        save_predictions(folder / PREDICTIONS_FILE, pairs)
        paths[name] = folder
    return paths
