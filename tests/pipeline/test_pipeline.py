"""The pipeline: which stage follows which, what is planned, what is recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from mirage_core.errors import ArtifactMissing, InputError, TrainingError
from mirage_core.methods import METHODS, get_method, stage_inputs
from mirage_core.pipeline.pipeline import methods_of, plan, run_pipeline
from mirage_core.pipeline.registry import STAGES, get_stage
from mirage_core.pipeline.run_record import load_record, newest_record
from mirage_core.pipeline.runner import run_in_process
from mirage_core.pipeline.stage import StageContext
from mirage_core.store import Store
from tests.pipeline.fakes import Events, fake_stages, settings, write_one

ALL = [
    "problems", "auxiliary-images", "base", "examples", "direct-sft", "grounding", "relaxation", "grpo",
    "evaluation/zero-shot", "evaluation/direct-sft", "evaluation/stage-1", "evaluation/stage-2", "evaluation/grpo",
    "report",
]  # fmt: skip


def trace(**changes: Any) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The labels of a run's stages in order, and the inputs of each."""
    received: dict[str, dict[str, str]] = {}

    def step(name: str, params: Mapping[str, Any], /, **inputs: str) -> str:
        stage_label = "/".join([name, *params.values()])
        received[stage_label] = inputs
        return stage_label

    return list(run_pipeline(settings(**changes), step)), received


def test_the_pipeline_goes_from_problems_to_the_report() -> None:
    labels, received = trace()
    assert labels == ALL
    assert list(received) == ALL
    assert received["grounding"] == {"model": "base", "examples": "examples"}
    assert received["relaxation"] == {"model": "grounding", "examples": "examples"}
    assert received["grpo"] == {"model": "relaxation", "problems": "problems"}
    assert received["evaluation/zero-shot"]["model"] == "base"
    assert received["evaluation/stage-2"]["model"] == "relaxation"
    assert sorted(received["report"]) == sorted(set(ALL) - {"report"})


@pytest.mark.parametrize(
    ("changes", "skipped"),
    [
        ({"grpo": {"enabled": False}}, {"grpo", "evaluation/grpo"}),
        (
            {"evaluation": {"methods": ["stage-2"]}},
            {"direct-sft", "grpo", *(f"evaluation/{m}" for m in ("zero-shot", "direct-sft", "stage-1", "grpo"))},
        ),
        ({"evaluation": {"methods": ["zero-shot"]}}, set(ALL) - {
            "problems", "auxiliary-images", "base", "evaluation/zero-shot", "report"
        }),
    ],
)  # fmt: skip
def test_stages_that_nobody_needs_are_skipped(changes: dict[str, Any], skipped: set[str]) -> None:
    assert set(ALL) - set(trace(**changes)[0]) == skipped


def test_every_step_of_the_pipeline_fits_its_stage() -> None:
    for stage_label, received in trace()[1].items():
        stage = get_stage(stage_label.split("/")[0])
        assert stage.inputs is None or sorted(stage.inputs) == sorted(received)
    with pytest.raises(InputError, match="problems, auxiliary-images"):
        get_stage("problem")
    assert all(name == stage.name for name, stage in STAGES.items())


def test_a_plan_says_what_is_cached_and_does_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = fake_stages(monkeypatch)
    before = {planned.name: planned for planned in plan(settings(), store)}
    assert list(before) == ALL
    assert [name for name, planned in before.items() if planned.cached is False] == ["problems", "base"]
    assert before["grounding"].cached is None
    assert before["grounding"].fingerprint is None
    assert (ran, store.backend.sizes("")) == ([], {})
    run_in_process(settings(), store, Events())
    assert all(planned.cached and planned.artifact for planned in plan(settings(), store))
    changed = {planned.name: planned.cached for planned in plan(settings(relaxation={"steps": 3}), store)}
    assert [name for name, cached in changed.items() if not cached] == [
        "relaxation", "grpo", "evaluation/stage-2", "evaluation/grpo", "report"
    ]  # fmt: skip


def test_a_run_is_recorded_and_the_next_one_is_cached(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = fake_stages(monkeypatch)
    first = run_in_process(settings(), store, Events())
    assert ran == ALL
    second = run_in_process(settings(runtime={"processes": 1}), store, Events())
    assert ran == ALL
    assert {line.state for line in first.stages} == {"Completed"}
    assert {line.state for line in second.stages} == {"Cached"}
    assert [line.digest for line in first.stages] == [line.digest for line in second.stages]
    assert newest_record(store) == second
    assert load_record(store, f"runs/{first.id}.json") == first
    shown = json.loads(json.dumps(second.model_dump(mode="json")))
    assert shown["recipe"] == "fake"
    assert shown["wall_seconds"] >= 0
    assert shown["stages"][0].keys() >= {"name", "state", "cached", "seconds", "digest"}
    assert shown["scores"][0].keys() >= {"benchmark", "method", "level", "accuracy", "interval", "n", "unparsed"}
    assert [score["method"] for score in shown["scores"]] == [
        "zero-shot", "direct-sft", "stage-1", "stage-2", "grpo"
    ]  # fmt: skip


def test_a_failed_run_is_recorded_with_its_first_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(name: str, context: StageContext) -> dict[str, Any]:
        if name == "grounding":
            raise TrainingError("the loss is nan\nat step 3")
        return write_one(context)

    fake_stages(monkeypatch, run)
    with pytest.raises(TrainingError):
        run_in_process(settings(), store, Events())
    record = newest_record(store)
    assert (record.state, record.error) == ("Failed", "TrainingError: the loss is nan")
    assert [line.state for line in record.stages][-2:] == ["Completed", "Failed"]
    assert record.stages[-1].name == "grounding"


def test_a_store_without_runs_says_how_to_start_one(store: Store) -> None:
    with pytest.raises(ArtifactMissing, match="mirage run"):
        newest_record(store)


OTHERS = {
    "direct-sft-grpo": ("direct-sft-grpo", {"model": "direct-sft", "problems": "problems"}, "problems"),
    "capimagine-grpo": ("capimagine-grpo", {"model": "capimagine", "problems": "problems"}, "problems"),
    "without-stage-1": ("without-stage-1", {"model": "base", "examples": "examples"}, "problems"),
    "without-stage-1-grpo": (
        "without-stage-1-grpo", {"model": "without-stage-1", "problems": "problems"}, "problems"
    ),
    "auxiliary-input": ("auxiliary-input", {"model": "base", "examples": "auxiliary-examples"}, "auxiliary-problems"),
    "capimagine": ("capimagine", {"model": "base", "examples": "captions"}, "problems"),
    "visual-tokens": ("visual-tokens", {"model": "base", "examples": "visual-codes"}, "problems"),
    "monet": ("monet", {"model": "monet-warmup", "examples": "captions", "states": "monet-latents"}, "problems"),
}  # fmt: skip


@pytest.mark.parametrize("method", OTHERS)
def test_each_method_is_trained_on_its_own_and_judged_on_its_problems(method: str) -> None:
    stage, inputs, problems = OTHERS[method]
    labels, received = trace(evaluation={"methods": [method]})

    assert received[stage] == inputs
    assert received[f"evaluation/{method}"] == {"model": stage, "problems": problems}
    assert "grounding" not in labels, "only what is judged is trained"
    assert tuple(name for name in labels if name in get_method(method).stages) == get_method(method).stages
    assert get_method(method).stages[-1] == stage


def test_a_pipeline_of_every_method_trains_each_model_once() -> None:
    labels, _ = trace(evaluation={"methods": list(METHODS)}, auxiliary_images={"film": "forward"})

    assert len(labels) == len(set(labels))
    assert set(stage_inputs()) | {f"evaluation/{method}" for method in METHODS} | {"report"} == set(labels)


def test_no_method_ends_with_grpo_where_it_is_not_enabled() -> None:
    all_methods = {"evaluation": {"methods": list(METHODS)}, "auxiliary_images": {"film": "forward"}}
    chosen = settings(grpo={"enabled": False}, **all_methods)
    assert set(methods_of(chosen)) == {method for method in METHODS if not method.endswith("grpo")}
