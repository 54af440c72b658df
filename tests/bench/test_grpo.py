"""``mirage bench grpo``: its summary of runs, with the runs themselves faked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench import grpo
from flows.cli import app
from mirage_core.distributed.job import Job
from mirage_core.errors import InputError
from mirage_core.store.records import PREDICTIONS_FILE, save_predictions, save_problems
from mirage_core.training.logging.curves import Curves
from mirage_core.types import Prediction, Problem, Score, Scored, Split

TEST = 20
PNG = b"\x89PNG\r\n"


def make_problem(number: int, split: Split) -> Problem:
    return Problem(
        id=f"{split}-{number}",
        benchmark="vsp-planning",
        group="level-3",
        split=split,
        question="<image>",
        images=(b"image",),
        answer="R",
    )


def answered(problem: Problem, sample: int, right: bool) -> Scored:
    output = "\\boxed{R}" if right else "nothing"
    prediction = Prediction(
        problem_id=problem.id,
        benchmark=problem.benchmark,
        group=problem.group,
        method="grpo",
        output=output,
        token_ids=(1,),
        spans=(),
        finished=True,
        sample=sample,
    )
    return prediction, Score(problem_id=problem.id, correct=right, parsed="R" if right else None, rule="mirage")


class Runs:
    """Takes the place of training and evaluation: before, a quarter is right; after, half, of samples all."""

    def __init__(self) -> None:
        self.trained: list[int] = []
        self.evaluated: list[str] = []

    def run_job(self, job: Job, **_: Any) -> None:
        self.trained.append(job.seed)
        job.output.mkdir(parents=True)
        (job.output / "mirage.json").write_text("{}")
        curves = Curves()
        for step in range(1, 21):
            curves.add(step, dict.fromkeys(grpo.SHOWN, step / 20))
        curves.write(job.output / "curves.parquet")

    def evaluate(self, model: Path, problems: Sequence[Problem], *, settings: Any, output: Path, **_: Any) -> None:
        after, samples = model.name == "output", settings.evaluation.samples
        self.evaluated.append(f"{'after' if after else 'before'} {samples}")
        share = (1.0 if samples > 1 else 0.5) if after else 0.25
        output.mkdir(parents=True)
        scored = [
            answered(problem, sample, number < share * len(problems))
            for number, problem in enumerate(problems)
            for sample in range(samples)
        ]
        save_predictions(output / PREDICTIONS_FILE, scored)
        (output / "metrics.json").write_text("{}")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    runs = Runs()
    monkeypatch.setattr(grpo, "run_job", runs.run_job)
    monkeypatch.setattr(grpo, "evaluate", runs.evaluate)
    return runs


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    folder = tmp_path / "problems"
    folder.mkdir()
    rows = [make_problem(number, "test") for number in range(TEST)] + [make_problem(0, "train")]
    save_problems(folder / "problems.parquet", rows)
    return folder


def invoke(tmp_path: Path, *more: str) -> Any:
    arguments = [
        str(tmp_path / "model"),
        str(tmp_path / "problems"),
        "--folder",
        str(tmp_path / "runs"),
        "--seeds",
        "2",
    ]
    return CliRunner().invoke(app, ["bench", "grpo", *arguments, *more])


def test_the_changes_on_held_out_problems_are_reported_with_their_intervals(
    runs: Runs, problems: Path, tmp_path: Path
) -> None:
    ran = invoke(tmp_path, "--json")
    assert ran.exit_code == 0, ran.output
    result = json.loads(ran.stdout)
    assert runs.trained == [1, 2]
    assert runs.evaluated == ["before 1", "before 4"] + ["after 1", "after 4"] * 2
    assert (result["problems"], result["samples"]) == (TEST, 4)
    assert result["sampled_accuracy"]["before"] == 0.25
    assert result["sampled_reward"]["after"] == pytest.approx(1.1)
    assert result["sampled_reward"]["interval"][0] > 0
    assert result["greedy_accuracy"]["difference"] == 0.25
    first = result["seeds"][0]
    assert (first["greedy_only_before"], first["greedy_only_after"]) == (0, 5)
    assert first["p_value"] == pytest.approx(2 / 2**5)
    assert (first["first_reward"], first["last_reward"]) == pytest.approx((0.075, 0.975))
    assert json.loads((tmp_path / "runs" / "grpo.json").read_text()) == result
    assert (tmp_path / "runs" / "grpo.png").read_bytes().startswith(PNG)
    assert "greedy accuracy" in invoke(tmp_path).stdout


def test_finished_runs_are_not_run_again(runs: Runs, problems: Path, tmp_path: Path) -> None:
    first = invoke(tmp_path, "--json").stdout
    del runs.trained[:], runs.evaluated[:]
    assert invoke(tmp_path, "--json").stdout == first
    assert not runs.trained and not runs.evaluated


def test_runs_with_other_settings_are_not_taken_for_these(runs: Runs, problems: Path, tmp_path: Path) -> None:
    invoke(tmp_path)
    ran = invoke(tmp_path, "--set", "grpo.steps=7")
    assert isinstance(ran.exception, InputError)
    assert "take another folder" in str(ran.exception)


def test_the_interval_over_seeds_is_one_over_problems() -> None:
    before = {"a": 0.0, "b": 1.0, "c": 0.0, "d": 1.0}
    after = [{"a": 1.0, "b": 1.0, "c": 0.0, "d": 1.0}, {"a": 1.0, "b": 0.0, "c": 0.0, "d": 1.0}]
    change = grpo._over_seeds(before, after)
    assert (change.before, change.after, change.difference) == (0.5, 0.625, 0.125)
    spread = ((0.875**2 + 0.625**2 + 2 * 0.125**2) / 3) ** 0.5
    assert change.interval == pytest.approx((0.125 - 1.959964 * spread / 2, 0.125 + 1.959964 * spread / 2))
