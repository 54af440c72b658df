"""A published model is started as a real server, asked what its evaluation was asked, and serves only if it agrees."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.trained import find_checkpoint
from mirage_core.benchmarks.generate import generate_problems
from mirage_core.config import Settings, identity
from mirage_core.errors import AnswersDiffer, ArtifactMissing, SettingsError
from mirage_core.model.loading import build_base_model, save_model
from mirage_core.pipeline.stage import stage_fingerprint
from mirage_core.pipeline.stages.evaluate import EVALUATION
from mirage_core.pipeline.stages.problems import PROBLEMS
from mirage_core.recipes import load
from mirage_core.store import Store
from mirage_core.store.records import (
    PREDICTIONS_FILE,
    PROBLEMS_FILE,
    load_predictions,
    load_problems,
    save_predictions,
    save_problems,
)
from mirage_core.types import Artifact
from tasks.paths import open_store
from tests.flows.test_nightly import newest_artifacts

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.xdist_group("prefect")]
SETS = ("evaluation.max_new_tokens=12", "evaluation.blind=false", "runtime.processes=1")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canary") / "store"


@pytest.fixture
def store(root: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MIRAGE_STORE", str(root))
    monkeypatch.setenv("MIRAGE_API_KEY", "sk-of-another-server")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return open_store()


def publish(store: Store, settings: Settings) -> Artifact:
    """A model of random weights that imagines often, and its problems, as a run would leave them; named nightly."""
    loaded = build_base_model(settings.model, 1)
    with torch.no_grad():
        loaded.backbone.model.get_output_embeddings().weight[loaded.ids.latent_start] *= -6
    about = {
        "recipe": settings.recipe, "prompt": identity(settings.prompt), "latent": identity(settings.latent),
        "variant": settings.teacher.variant, "stage": "relaxation",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "model", loaded.backbone, loaded.processor, about)
        manifest = {"stage": "relaxation", "settings": identity(settings)}
        model = store.publish("model", "1" * 64, Path(folder) / "model", summary={}, about=manifest)
        problems = [each for each in generate_problems(settings.problems, 1, lambda _: None) if each.split == "test"]
        (Path(folder) / "problems").mkdir()
        save_problems(Path(folder) / "problems" / PROBLEMS_FILE, problems)
        store.publish(
            "problems", stage_fingerprint(PROBLEMS, settings, {}), Path(folder) / "problems", summary={}, about={}
        )
    from flows.pointers import describe_model

    store.point("nightly", model, about=describe_model(store, model))
    return model


def canary(**more: Any) -> dict[str, Any]:
    from flows.canary import mirage_serve

    return mirage_serve(**more)


def stored_evaluation(store: Store, settings: Settings, model: Artifact) -> Artifact:
    (problems,) = store.list("problems")
    identified = stage_fingerprint(EVALUATION, settings, {"model": model, "problems": problems}, {"method": "stage-2"})
    found = store.find("evaluation", identified)
    assert found is not None
    return found


def falsify(store: Store, evaluation: Artifact, problem: str) -> None:
    """Replace the stored answer to one problem, as if the model had been another."""
    scored = [
        (replace(prediction, output="R, R, R") if prediction.problem_id == problem else prediction, score)
        for prediction, score in load_predictions(store.fetch(evaluation))
    ]
    manifest = store.manifest(evaluation)
    with tempfile.TemporaryDirectory() as folder:
        save_predictions(Path(folder) / PREDICTIONS_FILE, scored)
        store.remove(evaluation)
        store.publish(
            "evaluation", manifest.fingerprint, Path(folder), summary=evaluation.summary, about=manifest.about
        )


def test_without_a_published_model_the_canary_says_how_to_publish_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRAGE_STORE", str(tmp_path / "empty"))
    with pytest.raises(ArtifactMissing, match="mirage run --publish-as nightly"):
        canary()


def test_a_model_serves_only_if_it_answers_as_its_evaluation(store: Store) -> None:
    settings = load("micro", list(SETS))
    model = publish(store, settings)
    result = canary(problems=9)

    assert (result["asked"], result["different"]) == (9, [])
    assert store.pointer("serving").artifact == model
    assert store.pointer("serving").about == store.pointer("nightly").about
    assert "9 of 9 answers as stored" in newest_artifacts("serve-canary")["serve-canary"]
    assert find_checkpoint("serving", None, store).folder == store.fetch(model)
    evaluation = stored_evaluation(store, settings, model)
    spans = sum(len(prediction.spans) for prediction, _ in load_predictions(store.fetch(evaluation)))
    assert spans > 9  # the answers that agree hold latents

    asked = load_problems(store.fetch(store.list("problems")[0]), split="test")[0].id
    before = store.pointer("serving")
    falsify(store, evaluation, asked)
    with pytest.raises(AnswersDiffer) as raised:
        canary(problems=2, serving="other")
    assert asked in str(raised.value) and "1 of 2 problems" in str(raised.value) and "'R, R, R'" in str(raised.value)
    assert "other" not in store.pointers() and store.pointer("serving") == before
    assert f"| {asked} | output | `R, R, R` |" in newest_artifacts("serve-canary")["serve-canary"]


def test_a_model_whose_evaluation_samples_is_refused(store: Store) -> None:
    from flows.canary import check_greedy
    from flows.pointers import pointer_target

    publish(store, load("micro", list(SETS)))
    target = pointer_target(store, "nightly")
    check_greedy(target)
    with pytest.raises(SettingsError, match=r"temperature 0\.7.*greedy"):
        check_greedy(replace(target, settings=load("micro", [*SETS, "evaluation.temperature=0.7"])))
