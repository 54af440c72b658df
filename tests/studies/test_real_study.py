"""The study ablation-micro with nothing faked but where its processes run: every method trained and judged once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mirage_core.methods import get_method
from mirage_core.store import Store
from mirage_core.store.records import load_examples, load_predictions, load_problems
from mirage_core.studies.loading import load_study
from mirage_core.studies.run import StudyResult, run_study_in_process
from tests.pipeline.jobs_here import jobs_here

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real-study")]  # trained once, not by each worker


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.open(tmp_path_factory.mktemp("study") / "store")


@pytest.fixture(scope="module")
def result(store: Store) -> StudyResult:
    with jobs_here():
        return run_study_in_process(load_study("ablation-micro"), (), store, lambda event: None)


def test_every_cell_is_trained_and_judged_on_the_same_problems(store: Store, result: StudyResult) -> None:
    result.check()
    answered = {
        outcome.run.cell.name: {pair[0].problem_id for pair in load_predictions(store.fetch(outcome.evaluation))}
        for outcome in result.cells
        if outcome.evaluation is not None
    }
    tests = {item.id for item in load_problems(store.fetch(result.cells[0].artifacts["problems"]), "test")}

    assert len(answered) == len(result.cells) == 13
    assert all(ids == tests for ids in answered.values())


def test_every_model_is_another_one(result: StudyResult) -> None:
    models = {
        artifact.digest
        for outcome in result.cells
        for artifact in outcome.artifacts.values()
        if artifact.kind == "model"
    }
    # base; direct SFT, CoT SFT, their shown and captioned kin; grounding; three relaxations; four times GRPO.
    assert len(models) == 1 + 2 + 2 + 1 + 3 + 4


def test_no_model_without_latents_answers_with_any(store: Store, result: StudyResult) -> None:
    for outcome in result.cells:
        assert outcome.evaluation is not None
        spans = [pair[0].spans for pair in load_predictions(store.fetch(outcome.evaluation))]
        if get_method(outcome.run.cell.method).latents == "off":
            assert not any(spans), outcome.run.name


def test_only_the_upper_bound_sees_the_auxiliary_picture(store: Store, result: StudyResult) -> None:
    by_name = {outcome.run.cell.name: outcome for outcome in result.cells}
    shown = by_name["auxiliary-input"].artifacts
    pictures = {
        name: {len(item.images) for item in load_problems(store.fetch(shown[name]), "test")}
        for name in ("problems", "auxiliary-problems")
    }
    learned = {len(item.problem.images) for item in load_examples(store.fetch(shown["auxiliary-examples"]))}
    read = store.manifest(shown["evaluation/auxiliary-input"]).about["inputs"]["problems"]["digest"]

    assert pictures == {"problems": {1}, "auxiliary-problems": {2}} and learned == {2}
    assert read == shown["auxiliary-problems"].digest


def test_the_report_counts_what_was_trained(store: Store, result: StudyResult) -> None:
    folder: Path = store.fetch(result.report)
    cells = {
        cell["name"]: cell["runs"][0]["budget"] for cell in json.loads((folder / "study.json").read_text())["cells"]
    }

    assert cells["zero-shot"]["tokens"] == 0
    assert (cells["without-stage-1"]["text_steps"], cells["without-stage-1"]["grounding_steps"]) == (4, 0)
    assert (cells["mirage-direct-grpo"]["policy_updates"], cells["direct-sft-grpo"]["sampled_answers"]) == (
        2,
        2 * 2 * 4,
    )
    # The same examples with one more picture, and with thoughts, are longer.
    assert cells["auxiliary-input"]["tokens"] > cells["direct-sft"]["tokens"] > 0
    assert cells["cot-sft"]["tokens"] > 2 * cells["direct-sft"]["tokens"]
    assert all(budget["seconds"] > 0 for name, budget in cells.items() if name != "zero-shot")
    assert (folder / "study.html").stat().st_size > 50_000
