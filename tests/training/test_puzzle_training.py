"""Rotations and foldings go the whole road: generated, drawn as films, trained on, and evaluated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mirage_core.benchmarks.load_problems import sourced_problems
from mirage_core.distributed.events import EventWriter
from mirage_core.distributed.job import Job
from mirage_core.evaluation import evaluate as evaluation
from mirage_core.model.loading import build_base_model, save_model
from mirage_core.store.records import load_predictions, save_examples, save_problems
from mirage_core.store.tables import read_table
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.teacher import make_teacher, write_examples
from mirage_core.training.sft.train import run_supervised
from mirage_core.training.stepwise.heads import load_heads
from tests.training.small_world import quiet, small_settings

NUMBERS = {"train_levels": [3, 4], "test_levels": [3, 4], "train": 16, "validation": 0, "test_per_level": 3}
STEPWISE = {"where": "cell", "what": "kind"}


@pytest.mark.parametrize(
    ("section", "kinds"),
    [
        ("mental_rotation", {"red", "green", "blue", "yellow"}),
        ("paper_folding", {"round", "square", "diamond"}),
    ],
    ids=["mental-rotation", "paper-folding"],
)
def test_a_puzzle_is_generated_drawn_trained_on_with_its_film_and_evaluated(
    section: str, kinds: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(
        problems={"vsp_planning": None, section: NUMBERS},
        auxiliary_images={"film": "forward"},
        latent={"length": "frames", "end": "free", "max_latents": 6},
        film={"steps": 4, "batch_size": 6, "learning_rate": 2e-3, "warmup_steps": 2, "stepwise": STEPWISE},
    )
    problems = [problem for problem, _ in sourced_problems(settings.problems, settings.seed, quiet)]
    trained = [problem for problem in problems if problem.split == "train"]
    images = draw_auxiliary_images(trained, settings.auxiliary_images, settings.problems.cell_px, settings.seed, quiet)
    inputs = {name: tmp_path / name for name in ("model", "examples", "problems")}
    for name in ("examples", "problems"):
        inputs[name].mkdir()
    save_problems(inputs["problems"] / "problems.parquet", problems)
    examples = write_examples(make_teacher(settings.teacher), trained, images, "direct", quiet)
    save_examples(inputs["examples"] / "examples.parquet", examples, film=True)
    base = build_base_model(settings.model, settings.seed)
    save_model(inputs["model"], base.backbone, base.processor, {"stage": "base"})

    output, scratch = tmp_path / "output", tmp_path / "scratch"
    job = Job(program="film", settings=settings, seed=7, inputs=inputs, output=output, scratch=scratch)
    output.mkdir()
    scratch.mkdir()
    run_supervised(job, EventWriter(tmp_path / "events.jsonl"))

    curves = {row["name"] for row in read_table(output / "curves.parquet")}
    assert {"where", "what", "end_accuracy"} <= curves
    assert set(map(json.loads, load_heads(output, 64)[1]["kinds"])) == kinds

    def here(job: Job, *, progress: Callable, on_checkpoint: Callable) -> None:
        evaluation.evaluate_rank(job, progress)

    monkeypatch.setattr(evaluation, "run_job", here)
    test = [problem for problem in problems if problem.split == "test"]
    metrics = evaluation.evaluate(
        output, test, settings=settings, method="film", latents="on", output=tmp_path / "evaluation",
        scratch=tmp_path / "evaluation-scratch", progress=quiet,
    )  # fmt: skip
    assert metrics["method"] == "film"
    assert {prediction.benchmark for prediction, _ in load_predictions(tmp_path / "evaluation")} == {
        section.replace("_", "-")
    }
