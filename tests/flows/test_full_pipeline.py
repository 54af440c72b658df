"""The flow ``mirage`` over fake stages, on a real Prefect server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mirage_core.errors import DataError, TrainingProcessDied
from mirage_core.pipeline.run_record import RunRecord, newest_record
from tasks.paths import open_store, results_url, store_url
from tests.flows.fake_road import FakeRoad
from tests.flows.traces import pages

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.xdist_group("prefect")]


SHORT = "evaluation.methods=[stage-2]"


def run(*overrides: str) -> RunRecord:
    from flows.full_pipeline import mirage

    mirage(recipe="micro", overrides=list(overrides or (SHORT,)))
    return newest_record(open_store())


def states(record: RunRecord) -> dict[str, str]:
    return {stage.name: stage.state for stage in record.stages}


def result_records() -> list[Path]:
    return sorted(path for path in Path(results_url()).rglob("mirage/*/v1/*") if path.is_file())


def test_the_second_run_finds_every_stage_cached_with_the_same_digests(road: FakeRoad) -> None:
    first = run("seed=42")
    ran = list(road.ran)
    second = run("seed=42")

    assert set(states(first).values()) == {"Completed"}
    assert set(states(second).values()) == {"Cached"}
    assert all(stage.cached for stage in second.stages)
    assert [stage.digest for stage in first.stages] == [stage.digest for stage in second.stages]
    assert road.ran == ran, "no stage's body ran twice"
    assert second.scores == first.scores
    assert {score.method for score in first.scores} == {"zero-shot", "direct-sft", "stage-1", "stage-2", "grpo"}


def test_a_stage_that_the_store_has_is_cached_though_prefect_knows_nothing_of_it(road: FakeRoad) -> None:
    run()
    records = result_records()
    for record in records:
        record.unlink()

    assert records
    assert set(states(run()).values()) == {"Cached"}


def test_a_failed_stage_is_run_again_and_those_before_it_are_not(road: FakeRoad) -> None:
    road.faults["relaxation"] = [DataError("row 7 has no image; expected one; mend the file")]
    with pytest.raises(DataError, match="row 7"):
        run()
    failed = newest_record(open_store())
    road.ran.clear()
    repaired = run()

    assert failed.state == "Failed"
    assert failed.stages[-1].name == "relaxation"
    assert "row 7" in str(failed.stages[-1].error)
    assert road.ran[0] == "relaxation"
    assert states(repaired)["grounding"] == "Cached"
    assert states(repaired)["report"] == "Completed"


def test_a_fault_of_the_input_is_tried_once(road: FakeRoad) -> None:
    road.faults["problems"] = [DataError("wrong"), DataError("wrong")]
    with pytest.raises(DataError):
        run()

    assert road.ran == ["problems"]


def test_a_transient_fault_is_tried_again(road: FakeRoad) -> None:
    road.faults["base"] = [TrainingProcessDied("killed"), TrainingProcessDied("killed")]
    record = run()

    assert road.ran.count("base") == 3
    assert record.state == "Completed"


def test_a_deleted_artifact_is_made_again_and_nothing_else(road: FakeRoad) -> None:
    first = run()
    path = next(stage.path for stage in first.stages if stage.name == "examples")
    shutil.rmtree(Path(store_url()) / str(path))
    road.ran.clear()
    second = run()

    assert road.ran == ["examples"]
    assert states(second)["problems"] == "Cached"


def test_a_run_leaves_its_settings_scores_and_curves_among_the_artifacts_of_the_ui(road: FakeRoad) -> None:
    from prefect.client.orchestration import get_client

    run()
    with get_client(sync_client=True) as client:
        found = pages(lambda body: client._client.post("/artifacts/filter", json=body).json())
    keys = {artifact["key"] for artifact in found}

    assert {"settings", "scores", "run", "curves-relaxation", "progress-relaxation"} <= keys


def test_a_run_of_one_stage_takes_what_it_needs_from_the_stages_before_it(road: FakeRoad) -> None:
    from flows.single_stage import single_stage

    examples = single_stage(stage="examples", recipe="micro")

    assert sorted(road.ran) == ["auxiliary-images", "examples", "problems"]
    assert examples.kind == "examples"


def test_a_run_of_one_stage_works_on_a_chosen_artifact(road: FakeRoad) -> None:
    from flows.single_stage import single_stage

    run()
    model = next(artifact for artifact in open_store().list("model") if artifact.summary["made"] == "base")
    road.ran.clear()
    trained = single_stage(stage="relaxation", recipe="micro", model=model.path)

    assert road.ran == ["relaxation"]
    about = open_store().manifest(trained).about
    assert about["inputs"]["model"]["digest"] == model.digest
