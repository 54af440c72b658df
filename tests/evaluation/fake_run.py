"""A whole run without a model: real problems, invented answers and curves, in the folders a report reads."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mirage_core.benchmarks.generate import generate_problems
from mirage_core.config import (
    BenchmarkData,
    ProblemSettings,
    RelaxationSettings,
    ReportSettings,
    Settings,
    TextTrainSettings,
)
from mirage_core.generation.generator import judge
from mirage_core.store.records import save_auxiliary_images, save_examples, save_predictions, save_problems
from mirage_core.store.tables import write_table
from mirage_core.synthesis import draw_auxiliary_images
from mirage_core.types import LatentSpan, Prediction, Problem, ReasoningChain, TrainingExample

CURVES = pa.schema([("step", pa.int64()), ("name", pa.string()), ("value", pa.float64())])
SKILL = {"zero-shot": 0.03, "direct-sft": 0.86, "stage-1": 0.12, "stage-2": 0.82, "grpo": 0.84}
WITH_LATENTS = ("stage-1", "stage-2", "grpo")


def small_settings(test_per_level: int = 4, trajectories: int = 2) -> Settings:
    """A recipe whose problems are made in a second."""
    data = BenchmarkData(
        train_levels=(3, 4), test_levels=(3, 4, 5, 6), train=8, validation=0, test_per_level=test_per_level
    )
    return Settings(
        recipe="fake",
        problems=ProblemSettings(vsp_planning=data, vsp_reasoning=data),
        report=ReportSettings(trajectories=trajectories),
        direct_sft=TextTrainSettings(steps=600, batch_size=32),
        relaxation=RelaxationSettings(steps=300, batch_size=32),
    )


def fake_run(folder: Path, settings: Settings, *, curves: bool = True) -> dict[str, Path]:
    """Write every folder of a run; returns them by stage name. Without ``curves`` a report is drawn in a second."""
    names = ["problems", "auxiliary-images", "examples", "base", "direct-sft", "grounding", "relaxation", "grpo"]
    folders = {name: folder / name for name in [*names, *(f"evaluation/{method}" for method in SKILL)]}
    for path in folders.values():
        path.mkdir(parents=True)
    problems = generate_problems(settings.problems, settings.seed, lambda event: None)
    images = draw_auxiliary_images(problems, settings.auxiliary_images, 64, settings.seed, lambda event: None)
    save_problems(folders["problems"] / "problems.parquet", problems)
    save_auxiliary_images(folders["auxiliary-images"] / "auxiliary_images.parquet", images)
    save_examples(folders["examples"] / "examples.parquet", _examples(problems, images))
    test = [problem for problem in problems if problem.split == "test"]
    for method in SKILL:
        write_answers(folders[f"evaluation/{method}"], test, method)
    for name in names[3:]:
        if curves:
            write_curves(folders[name], name)
        chapter = {"stage": name, "arithmetic": "CPU, AVX2" if name == "base" else "CPU, AVX512"}
        (folders[name] / "mirage.json").write_text(json.dumps({"stage": name, "history": [chapter]}))
    return folders


def write_answers(folder: Path, problems: Sequence[Problem], method: str) -> None:
    """Write invented answers of a method, right about as often as its skill and the level allow."""
    scored = []
    for index, problem in enumerate(problems):
        prediction = fake_prediction(problem, method, index)
        scored.append((prediction, judge(problem, prediction, "mirage")))
    save_predictions(folder / "predictions.parquet", scored)


def fake_prediction(problem: Problem, method: str, index: int) -> Prediction:
    """One invented answer."""
    rng = np.random.default_rng([index, list(SKILL).index(method)])
    level = int(problem.group.removeprefix("level-"))
    right = rng.random() < SKILL[method] - 0.12 * max(0, level - 4)
    wrong = "".join(rng.choice(list("UDLR"), 3)) if problem.benchmark == "vsp-planning" else rng.choice(list("ABC"))
    answer = problem.answer if right else str(wrong)
    output = "well <|object_ref|>{{ settings }} <b>" if rng.random() < 0.05 else f"\\boxed{{{answer}}}"
    latents = method in WITH_LATENTS and rng.random() < 0.97
    return Prediction(
        problem_id=problem.id,
        benchmark=problem.benchmark,
        group=problem.group,
        method=method,
        output=f"<latents:4>{output}" if latents else output,
        token_ids=tuple(range(9)),
        spans=(LatentSpan(position=1, num_latents=4),) if latents else (),
        finished=rng.random() < 0.98,
    )


def write_curves(folder: Path, stage: str, steps: int = 120) -> None:
    """Write curves.parquet with the shapes training gives."""
    rng = np.random.default_rng(len(stage))
    rows = []
    for step in range(1, steps + 1):
        done = 1 - math.exp(-4 * step / steps)
        for name, value in _figures(stage, done).items():
            rows.append({"step": step, "name": name, "value": float(value + 0.04 * abs(value) * rng.normal())})
    write_table(folder / "curves.parquet", rows, CURVES)


def _figures(stage: str, done: float) -> dict[str, float]:
    """The figures of one step, by name, for a stage that is ``done`` (0 to 1)."""
    common = {"loss": 2.2 * (1 - done) + 0.05, "learning_rate": 1e-3 * (1 - done), "grad_norm": 1.5 - done,
              "seconds": 0.2}  # fmt: skip
    if stage == "base":
        return common | {"loss_text": 1 - 0.9 * done, "loss_dense": 3 - 2.9 * done, "cell_accuracy": 0.25 + 0.74 * done,
                         "centring": 0.9 - 0.7 * done}  # fmt: skip
    if stage == "grounding":
        cosines = {f"cosine_{index}": 0.25 + (0.62 - 0.05 * index) * done for index in range(4)}
        return common | cosines | {"cosine_constant": 0.41, "cosine_input": 0.71, "visual": 0.7 - 0.5 * done,
                                   "text": 2 - 1.8 * done}  # fmt: skip
    if stage == "grpo":
        return {"reward_mean": 0.72 + 0.1 * done, "reward_std": 0.35 - 0.05 * done, "accuracy": 0.72 + 0.06 * done,
                "kl": 0.02 * done, "clip_fraction": 0.03, "entropy": 0.3 - 0.1 * done, "latent_share": 0.97,
                "well_formed": 0.99, "completion_length": 8.1, "silent_groups": 0.55, "grad_norm": 0.8,
                "tokens_per_second": 900.0}  # fmt: skip
    return common


def _examples(problems: Sequence[Problem], images: Sequence) -> list[TrainingExample]:
    return [
        TrainingExample(
            problem=problem,
            auxiliary_image=image,
            chain=ReasoningChain(
                problem_id=problem.id,
                variant="direct",
                text_before="",
                text_after=f"\\boxed{{{problem.answer}}}",
                teacher="oracle",
            ),
        )
        for problem, image in zip(problems, images, strict=True)
        if problem.split == "train"
    ]
