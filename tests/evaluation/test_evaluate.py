"""An evaluation through real processes and a real (random, very small) model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mirage_core.benchmarks.generate import generate_problems
from mirage_core.config import (
    BenchmarkData,
    EvaluationSettings,
    InferenceSettings,
    ModelSettings,
    ProblemSettings,
    PromptSettings,
    RuntimeSettings,
    Settings,
    identity,
)
from mirage_core.distributed.context import ProcessContext, as_process
from mirage_core.distributed.job import Job
from mirage_core.errors import DataError, OutOfMemory, SettingsError, TrainingProcessDied
from mirage_core.evaluation import evaluate as run
from mirage_core.generation.generator import Generator, evaluation_decoding, fixed_batches, seeded_numbers
from mirage_core.model.loading import build_base_model, load_model, save_model
from mirage_core.pipeline.pipeline import run_pipeline
from mirage_core.pipeline.stage import label
from mirage_core.pipeline.stages.evaluate import evaluation_identity
from mirage_core.recipes import load
from mirage_core.store.records import load_predictions
from mirage_core.types import Problem, ProgressEvent
from tests.forked import forked_jobs
from tests.small_sizes import SIZES


def silent(event: ProgressEvent) -> None:
    """Progress nobody follows."""


@pytest.fixture(scope="module")
def settings() -> Settings:
    data = BenchmarkData(train=0, validation=0, test_levels=(3, 4), test_per_level=5)
    return Settings(
        recipe="test",
        problems=ProblemSettings(vsp_planning=data, vsp_reasoning=data),
        prompt=PromptSettings(form="short", image_scale=28 / 64),
        model=ModelSettings(architecture=SIZES),
        evaluation=EvaluationSettings(max_new_tokens=8, batch_size=6),
        runtime=RuntimeSettings(processes=2, threads=1, engine="plain"),
    )


@pytest.fixture(scope="module")
def problems(settings: Settings) -> list[Problem]:
    return generate_problems(settings.problems, 1, silent)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    folder = tmp_path_factory.mktemp("model")
    loaded = build_base_model(settings.model, 1)
    about = {"prompt": identity(settings.prompt), "latent": identity(settings.latent), "variant": "direct"}
    save_model(folder, loaded.backbone, loaded.processor, about)
    return folder


def evaluate(model: Path, problems: list[Problem], settings: Settings, folder: Path, **changed: object) -> dict:
    """Evaluate as a stage does, in a folder of one's own."""
    chosen = {"method": "stage-2", "latents": "on", "progress": silent, **changed}
    return run.evaluate(
        model, problems, settings=settings, output=folder / "output", scratch=folder / "scratch", **chosen
    )


def test_a_blind_evaluation_gives_one_answer_whatever_the_picture(
    model: Path, problems: list[Problem], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_this_process(monkeypatch)
    first, *others = [problem for problem in problems if problem.benchmark == "vsp-planning"][:5]
    same = [replace(other, images=other.images, question=first.question, group="level-3") for other in (first, *others)]
    outputs = {}
    for blind in (True, False):
        metrics = evaluate(model, same, settings, tmp_path / str(blind), blind=blind)
        answers = load_predictions(tmp_path / str(blind) / "output")
        outputs[blind] = {prediction.token_ids for prediction, _ in answers}
        assert metrics["method"] == ("stage-2-blind" if blind else "stage-2")
        assert {prediction.method for prediction, _ in answers} == {metrics["method"]}
    assert len(outputs[True]) == 1 < len(outputs[False])


def test_blindness_is_a_stage_of_its_own_and_leaves_other_fingerprints_as_they_are(settings: Settings) -> None:
    blind = settings.model_copy(update={"evaluation": settings.evaluation.model_copy(update={"blind": True})})
    assert evaluation_identity(blind) == evaluation_identity(settings)
    assert "blind" not in identity(settings)["evaluation"]
    names: list[str] = []

    def step(name: str, params: dict, /, **inputs: str) -> str:
        names.append(label(name, params))
        return names[-1]

    run_pipeline(blind, step)
    assert [f"blind-{name}" for name in names if name.startswith("evaluation/")] == [
        name for name in names if name.startswith("blind-evaluation/")
    ]
    names.clear()
    run_pipeline(settings, step)
    assert not any(name.startswith("blind-evaluation/") for name in names)


def in_this_process(monkeypatch: pytest.MonkeyPatch, world_size: int = 1) -> list[int]:
    """Run jobs here, one simulated process after the other; returns the list of batches answered."""
    answered: list[int] = []
    take = run._claim

    def counted(scratch: Path, index: int) -> bool:
        taken = take(scratch, index)
        answered.extend([index] if taken else [])
        return taken

    def run_job(job: Job, *, progress: Callable, on_checkpoint: Callable) -> None:
        for rank in range(world_size):
            with as_process(ProcessContext.on_one_host(rank, world_size)):
                run.evaluate_rank(job, progress)

    monkeypatch.setattr(run, "run_job", run_job)
    monkeypatch.setattr(run, "_claim", counted)
    return answered


def test_two_processes_give_the_bytes_that_one_gives(
    model: Path, problems: list[Problem], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with forked_jobs():
        metrics = evaluate(model, problems, settings, tmp_path / "two")
    in_this_process(monkeypatch)
    torch.set_num_threads(1)
    assert evaluate(model, problems, settings, tmp_path / "one") == metrics
    for name in ("predictions.parquet", "metrics.json"):
        assert (tmp_path / "two/output" / name).read_bytes() == (tmp_path / "one/output" / name).read_bytes()
    scored = load_predictions(tmp_path / "two/output")
    assert [prediction.problem_id for prediction, _ in scored] == [problem.id for problem in problems]
    assert json.loads((tmp_path / "two/output/metrics.json").read_text()) == metrics
    assert [(row["benchmark"], row["level"], row["n"]) for row in metrics["scores"]] == [
        ("vsp-planning", "3", 5), ("vsp-planning", "4", 5), ("vsp-planning", "all", 10),
        ("vsp-reasoning", "3", 5), ("vsp-reasoning", "4", 5), ("vsp-reasoning", "all", 10),
    ]  # fmt: skip


def test_a_retry_answers_only_the_batches_that_are_missing(
    model: Path, problems: list[Problem], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = in_this_process(monkeypatch)
    first = evaluate(model, problems, settings, tmp_path)
    assert answered == [0, 1, 2, 3]
    (tmp_path / "scratch/batches/00002.parquet").unlink()
    assert evaluate(model, problems, settings, tmp_path) == first
    assert answered == [0, 1, 2, 3, 2]
    assert evaluate(model, problems, settings, tmp_path) == first
    assert answered == [0, 1, 2, 3, 2]
    # Answers without latents are other answers: nothing of the old ones may be used.
    off = evaluate(model, problems, settings, tmp_path, latents="off")
    assert answered == [0, 1, 2, 3, 2, 0, 1, 2, 3]
    assert all(row["latent_share"] == 0 for row in off["scores"])


def test_where_the_memory_does_not_do_a_batch_is_answered_in_portions(
    model: Path, problems: list[Problem], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = in_this_process(monkeypatch)
    whole = evaluate(model, problems, settings, tmp_path / "whole")
    answered.clear()
    scored, sizes = run.Generator.scored, []

    def starved(self: Generator, asked: list[Problem]) -> list:
        sizes.append(len(asked))
        if len(asked) > 2 and len(sizes) > 1:  # the first batch fits, and is kept
            raise OutOfMemory("process 0: CUDA out of memory")
        return scored(self, asked)

    monkeypatch.setattr(run.Generator, "scored", starved)
    metrics = evaluate(model, problems, settings, tmp_path / "portions")
    batch = settings.evaluation.batch_size
    assert metrics.pop("memory") == {"portion": 2, "portion_that_did_not_fit": batch}
    assert metrics == whole
    assert answered.count(0) == 1
    assert set(sizes[:2]) == {batch} and max(sizes[4:]) <= 2
    saved = json.loads((tmp_path / "portions/output/metrics.json").read_text())
    assert "memory" not in saved


def test_a_job_that_ends_without_its_batches_is_an_error_that_may_be_retried(
    model: Path, problems: list[Problem], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "run_job", lambda job, progress, on_checkpoint: None)
    with pytest.raises(TrainingProcessDied, match="without batch 0 of 4"):
        evaluate(model, problems, settings, tmp_path)
    assert not (tmp_path / "output/predictions.parquet").exists()


def test_nothing_to_evaluate_and_double_ids_are_refused(
    model: Path, problems: list[Problem], settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="got no problems"):
        evaluate(model, [], settings, tmp_path)
    with pytest.raises(DataError, match="ids must be unique"):
        evaluate(model, [problems[0], problems[0]], settings, tmp_path)


def test_greedy_answers_do_not_depend_on_their_batch(model: Path, problems: list[Problem], settings: Settings) -> None:
    generator = Generator.for_evaluation(load_model(model), settings, method="stage-2")
    batches = [[problems[index] for index in batch] for batch in fixed_batches(problems, 6)]
    together = {prediction.problem_id: prediction for batch in batches for prediction, _ in generator.scored(batch)}
    (alone,) = generator.generate([problems[3]])
    assert generator.prediction(problems[3], alone.trajectories[0]) == together[problems[3].id]
    assert len(alone.trajectories[0].latents) == len(alone.trajectories[0].spans)


def test_sampled_answers_depend_on_seed_problem_and_sample_alone(
    model: Path, problems: list[Problem], settings: Settings
) -> None:
    drawn = settings.evaluation.model_copy(update={"temperature": 1.0, "samples": 2})
    sampled = settings.model_copy(update={"evaluation": drawn})
    loaded = load_model(model)
    generator = Generator.for_evaluation(loaded, sampled, method="stage-2")
    together = [prediction.output for prediction in generator.predictions(problems[:3])[1]]
    assert [prediction.output for prediction in generator.predictions([problems[1]])[0]] == together
    other = Generator.for_evaluation(loaded, sampled, method="stage-2", seed=7)
    assert [prediction.output for prediction in other.predictions([problems[1]])[0]] != together
    assert torch.equal(seeded_numbers(1, "p", 0, 4), seeded_numbers(1, "p", 0, 4))
    assert not torch.equal(seeded_numbers(1, "p", 0, 4), seeded_numbers(1, "p", 1, 4))


def test_samples_without_a_temperature_are_refused(settings: Settings) -> None:
    wanted = EvaluationSettings(samples=4)
    with pytest.raises(SettingsError, match="the same answer each time"):
        evaluation_decoding(wanted, settings.latent, "on")


def test_a_model_is_used_as_its_folder_says(model: Path, settings: Settings) -> None:
    other = settings.model_copy(update={"prompt": PromptSettings(form="benchmark")})
    assert InferenceSettings.from_metadata(load_model(model).about, other).prompt.form == "short"


def test_batches_hold_every_problem_once_and_like_with_like(problems: list[Problem]) -> None:
    batches = fixed_batches(problems, 5)
    assert sorted(index for batch in batches for index in batch) == list(range(len(problems)))
    for batch in batches:
        assert len({(problems[index].benchmark, problems[index].group) for index in batch}) == 1


def test_answers_in_letters_and_words_are_judged_anew_and_those_of_mazes_are_not() -> None:
    mazes, own = load("micro"), load("micro", ["problems.tablevqa={}"])
    assert "reading" not in evaluation_identity(mazes)
    assert evaluation_identity(own)["reading"] == 3
