"""What each stage hands to the floors below, with these faked at the edge; the cheap ones for real."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mirage_core.config import Settings
from mirage_core.distributed import launch
from mirage_core.distributed.job import Job, required_inputs
from mirage_core.errors import InputError, StoreUnavailable, TrainingProcessDied
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.runner import run_in_process
from mirage_core.pipeline.stage import run_stage, stage_fingerprint
from mirage_core.pipeline.stages.train import ProgressRelay
from mirage_core.store import Store
from mirage_core.store.records import load_auxiliary_images, load_examples, load_problems
from mirage_core.types import Artifact, ProgressEvent
from tests.pipeline.fakes import SCORES, Events, settings, stage, write_one

SMALL = {"train_levels": [3], "test_levels": [3], "train": 4, "validation": 2, "test_per_level": 2}
PROBLEMS = {"vsp_planning": SMALL, "vsp_reasoning": SMALL}


@pytest.fixture
def model(store: Store) -> Artifact:
    """Some model."""
    return run_stage(stage(write_one, kind="model"), settings(), {}, store, Events()).artifact


def data(store: Store, recipe: Settings) -> dict[str, Artifact]:
    """Problems, auxiliary images and examples, made for real."""
    events = Events()
    problems = run_stage(get_stage("problems"), recipe, {}, store, events).artifact
    images = run_stage(get_stage("auxiliary-images"), recipe, {"problems": problems}, store, events).artifact
    inputs = {"problems": problems, "auxiliary_images": images}
    return {**inputs, "examples": run_stage(get_stage("examples"), recipe, inputs, store, events).artifact}


def test_the_data_stages_make_problems_pictures_and_examples_twice_the_same(tmp_path: Path) -> None:
    recipe = settings(problems=PROBLEMS)
    stores = [Store.open(tmp_path / name) for name in ("one", "two")]
    artifacts, again = (data(store, recipe) for store in stores)
    assert {name: a.digest for name, a in artifacts.items()} == {name: a.digest for name, a in again.items()}
    problems = load_problems(stores[0].fetch(artifacts["problems"]))
    images = load_auxiliary_images(stores[0].fetch(artifacts["auxiliary_images"]))
    examples = load_examples(stores[0].fetch(artifacts["examples"]))
    assert len(problems) == len(images) == 16
    assert {example.problem.split for example in examples} == {"train", "validation"}
    assert artifacts["problems"].summary["problems"] == 16
    assert artifacts["examples"].summary["teacher"] == "oracle"


@pytest.mark.parametrize(
    ("name", "program"),
    [("direct-sft", "text"), ("grounding", "grounding"), ("relaxation", "relaxation"), ("grpo", "grpo")],
)
def test_a_training_stage_resumes_from_its_checkpoint_and_drops_it_afterwards(
    store: Store, model: Artifact, monkeypatch: pytest.MonkeyPatch, name: str, program: str
) -> None:
    jobs: list[Job] = []

    def run_job(job: Job, *, progress: Any, on_checkpoint: Any) -> None:
        jobs.append(job)
        if len(jobs) == 1:
            state = job.scratch / "state"
            state.mkdir()
            (state / "weights").write_text("half way")
            on_checkpoint(50, state)
            raise TrainingProcessDied("killed")
        assert job.resume_from is not None
        assert (job.resume_from / "weights").read_text() == "half way"
        (job.output / "model.safetensors").write_text("trained")

    monkeypatch.setattr(launch, "run_job", run_job)
    trained, recipe = get_stage(name), settings()
    inputs = dict.fromkeys(trained.inputs or (), model)
    run = stage_fingerprint(trained, recipe, inputs)
    with pytest.raises(TrainingProcessDied):
        run_stage(trained, recipe, inputs, store, Events())
    assert (store.latest_checkpoint(run) or (0,))[0] == 50
    events = Events()
    result = run_stage(trained, recipe, inputs, store, events)
    assert "resumes from the checkpoint of step 50" in events.messages
    assert store.latest_checkpoint(run) is None
    assert result.artifact.summary["engine"] == "deepspeed"
    assert [job.program for job in jobs] == [program, program]
    assert sorted(jobs[0].inputs) == sorted(required_inputs(jobs[0].program))
    assert jobs[0].resume_from is None


def test_a_store_that_is_away_at_a_checkpoint_does_not_stop_the_training(
    store: Store, model: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_job(job: Job, *, progress: Any, on_checkpoint: Any) -> None:
        on_checkpoint(50, job.scratch)
        (job.output / "model.safetensors").write_text("trained")

    asked: list[int] = []

    def away(*_: object, keep: int) -> None:
        asked.append(keep)
        raise StoreUnavailable("503")

    monkeypatch.setattr(launch, "run_job", run_job)
    monkeypatch.setattr(Store, "save_checkpoint", away)
    events, trained = Events(), get_stage("relaxation")
    result = run_stage(trained, settings(), dict.fromkeys(trained.inputs or (), model), store, events)
    assert not result.cached
    assert "the checkpoint of step 50 was not saved, training goes on without it: 503" in events.messages
    assert asked == [settings().runtime.keep_checkpoints]


def test_what_another_thread_reports_is_passed_on_by_the_thread_of_the_stage() -> None:
    messages: list[tuple[str, str]] = []
    relay = ProgressRelay(lambda event: messages.append((event.message, threading.current_thread().name)))
    here = threading.current_thread().name
    relay(ProgressEvent(stage="training", message="first"))
    other = threading.Thread(target=lambda: relay(ProgressEvent(stage="store", message="stored")), name="uploads")
    other.start()
    other.join()
    assert messages == [("first", here)]
    relay(ProgressEvent(stage="training", message="second"))
    assert messages == [("first", here), ("stored", here), ("second", here)]
    other = threading.Thread(target=lambda: relay(ProgressEvent(stage="store", message="the last")))
    other.start()
    other.join()
    relay.flush()
    assert messages[-1] == ("the last", here)


def test_a_stage_is_given_its_own_time_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []

    def run_job(job: Job, **_: Any) -> None:
        jobs.append(job)
        (job.output / "model.safetensors").write_text("warm")

    monkeypatch.setattr(launch, "run_job", run_job)
    run_stage(get_stage("base"), settings(runtime={"timeouts": {"base": 77, "grpo": 5}}), {}, store, Events())
    assert jobs[0].settings.runtime.timeout_s == 77


def test_the_base_from_scratch_is_a_warm_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []

    def run_job(job: Job, **_: Any) -> None:
        jobs.append(job)
        (job.output / "model.safetensors").write_text("warm")

    monkeypatch.setattr(launch, "run_job", run_job)
    result = run_stage(get_stage("base"), settings(seed=5), {}, store, Events())
    assert (jobs[0].program, jobs[0].seed, jobs[0].inputs) == ("warmup", 5, {})
    assert result.artifact.summary["source"] == "from_scratch"


@pytest.mark.parametrize(("method", "latents"), [("zero-shot", "off"), ("direct-sft", "off"), ("stage-2", "on")])
def test_an_evaluation_judges_the_test_problems_with_the_methods_latent_mode(
    store: Store, model: Artifact, monkeypatch: pytest.MonkeyPatch, method: str, latents: str
) -> None:
    calls: list[tuple[Path, Any, dict[str, Any]]] = []

    def evaluate(folder: Path, problems: Any, **named: Any) -> dict[str, Any]:
        calls.append((folder, problems, named))
        (named["output"] / "metrics.json").write_text("{}")
        return {"scores": [{**row, "method": named["method"]} for row in SCORES]}

    monkeypatch.setitem(sys.modules, "mirage_core.evaluation.evaluate", SimpleNamespace(evaluate=evaluate))
    recipe = settings(problems=PROBLEMS)
    problems = run_stage(get_stage("problems"), recipe, {}, store, Events()).artifact
    inputs = {"model": model, "problems": problems}
    result = run_stage(get_stage("evaluation"), recipe, inputs, store, Events(), {"method": method})
    folder, asked, named = calls[0]
    assert folder == store.fetch(model)
    assert {problem.split for problem in asked} == {"test"}
    assert (named["method"], named["latents"]) == (method, latents)
    assert result.artifact.summary["scores"][0]["method"] == method


def test_an_unknown_method_is_refused_with_the_known_ones(store: Store, model: Artifact) -> None:
    recipe = settings(problems=PROBLEMS)
    problems = run_stage(get_stage("problems"), recipe, {}, store, Events()).artifact
    with pytest.raises(InputError, match="zero-shot, direct-sft"):
        run_stage(
            get_stage("evaluation"), recipe, {"model": model, "problems": problems}, store, Events(), {"method": "x"}
        )


def test_the_report_gets_every_folder_by_its_label_and_no_runtime(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Settings, dict[str, Path]]] = []

    def write_report(output: Path, recipe: Settings, folders: dict[str, Path], lens: object) -> dict[str, Any]:
        assert lens is None, "nobody asked for looks"
        calls.append((recipe, folders))
        (output / "report.html").write_text("<html>")
        return {"page": "report.html"}

    report = get_stage("report")
    from tests.pipeline.fakes import fake_stages

    fake_stages(monkeypatch)
    from mirage_core.pipeline import registry

    monkeypatch.setitem(registry.STAGES, "report", report)
    monkeypatch.setitem(sys.modules, "mirage_core.reports.run.report", SimpleNamespace(write_report=write_report))
    run_in_process(settings(runtime={"processes": 7}), store, Events())
    recipe, folders = calls[0]
    assert {"problems", "auxiliary-images", "examples", "base", "relaxation", "evaluation/stage-2"} <= set(folders)
    assert all(folder.is_dir() for folder in folders.values())
    assert recipe.runtime == settings().runtime
