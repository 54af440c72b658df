"""The flow ``mirage`` over fake stages, on a real Prefect server."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mirage_core.errors import DataError, TrainingProcessDied
from mirage_core.pipeline.run_record import RunRecord, newest_record
from mirage_core.pipeline.stage import StageContext
from tasks.paths import open_store, store_url
from tests.flows.fake_pipeline import FakePipeline
from tests.flows.traces import pages

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.xdist_group("prefect")]


SHORT = "evaluation.methods=[stage-2]"


def run(*overrides: str) -> RunRecord:
    from flows.full_pipeline import mirage

    mirage(recipe="micro", overrides=list(overrides or (SHORT,)))
    return newest_record(open_store())


def meeting() -> Callable[[StageContext], None]:
    """What two stages do that only end when the other works, too."""
    both = threading.Barrier(2, timeout=60)

    def meet(context: StageContext) -> None:
        both.wait()

    return meet


def states(record: RunRecord) -> dict[str, str]:
    return {stage.name: stage.state for stage in record.stages}


def test_the_second_run_finds_every_stage_cached_with_the_same_digests(fake_pipeline: FakePipeline) -> None:
    first = run("seed=42")
    ran = list(fake_pipeline.ran)
    second = run("seed=42")

    assert set(states(first).values()) == {"Completed"}
    assert set(states(second).values()) == {"Cached"}
    assert all(stage.cached for stage in second.stages)
    assert [stage.digest for stage in first.stages] == [stage.digest for stage in second.stages]
    assert fake_pipeline.ran == ran, "no stage's body ran twice"
    assert second.scores == first.scores
    assert {score.method for score in first.scores} == {"zero-shot", "direct-sft", "stage-1", "stage-2", "grpo"}


def test_a_failed_stage_is_run_again_and_those_before_it_are_not(fake_pipeline: FakePipeline) -> None:
    fake_pipeline.faults["relaxation"] = [DataError("row 7 has no image; expected one; mend the file")]
    with pytest.raises(DataError, match="row 7"):
        run()
    failed = newest_record(open_store())
    fake_pipeline.ran.clear()
    repaired = run()

    assert failed.state == "Failed"
    assert failed.stages[-1].name == "relaxation"
    assert "row 7" in str(failed.stages[-1].error)
    assert fake_pipeline.ran[0] == "relaxation"
    assert states(repaired)["grounding"] == "Cached"
    assert states(repaired)["report"] == "Completed"


def test_a_fault_of_the_input_is_tried_once(fake_pipeline: FakePipeline) -> None:
    fake_pipeline.faults["problems"] = [DataError("wrong"), DataError("wrong")]
    with pytest.raises(DataError):
        run()

    assert fake_pipeline.ran == ["problems"]


def test_a_transient_fault_is_tried_again(fake_pipeline: FakePipeline) -> None:
    fake_pipeline.faults["base"] = [TrainingProcessDied("killed"), TrainingProcessDied("killed")]
    record = run()

    assert fake_pipeline.ran.count("base") == 3
    assert record.state == "Completed"


def test_stages_run_side_by_side_on_the_one_slot_of_their_run(fake_pipeline: FakePipeline) -> None:
    """Both run a model, and the limit of the GPU has one slot: each only ends when the other works, too."""
    fake_pipeline.during["direct-sft"] = fake_pipeline.during["grounding"] = meeting()
    record = run("runtime.stages_at_once=2")

    assert record.state == "Completed" and set(states(record).values()) == {"Completed"}
    assert fake_pipeline.ran[-1] == "report" and len(fake_pipeline.ran) == len(record.stages)


def test_a_failure_beside_another_stage_fails_the_run_with_its_error(fake_pipeline: FakePipeline) -> None:
    meet = fake_pipeline.during["grounding"] = meeting()

    def fail(context: StageContext) -> None:
        meet(context)
        raise DataError("row 7 has no image; expected one; mend the file")

    fake_pipeline.during["direct-sft"] = fail
    with pytest.raises(DataError, match="row 7"):
        run("runtime.stages_at_once=2")
    failed = newest_record(open_store())

    assert failed.state == "Failed"
    assert states(failed)["direct-sft"] == "Failed" and states(failed)["grounding"] == "Completed"
    assert "report" not in states(failed)


def test_a_deleted_artifact_is_made_again_and_nothing_else(fake_pipeline: FakePipeline) -> None:
    first = run()
    path = next(stage.path for stage in first.stages if stage.name == "examples")
    shutil.rmtree(Path(store_url()) / str(path))
    fake_pipeline.ran.clear()
    second = run()

    assert fake_pipeline.ran == ["examples"]
    assert states(second)["problems"] == "Cached"


def test_a_run_leaves_its_settings_scores_and_curves_among_the_artifacts_of_the_ui(fake_pipeline: FakePipeline) -> None:
    from prefect.client.orchestration import get_client

    run()
    with get_client(sync_client=True) as client:
        ui_artifacts = pages(lambda body: client._client.post("/artifacts/filter", json=body).json())
    keys = {artifact["key"] for artifact in ui_artifacts}

    assert {"settings", "scores", "run", "curves-relaxation", "progress-relaxation"} <= keys


def test_a_run_of_one_stage_takes_what_it_needs_from_the_stages_before_it(fake_pipeline: FakePipeline) -> None:
    from flows.single_stage import single_stage

    examples = single_stage(stage="examples", recipe="micro")

    assert sorted(fake_pipeline.ran) == ["auxiliary-images", "examples", "problems"]
    assert examples.kind == "examples"


def test_a_run_of_one_stage_works_on_a_chosen_artifact(fake_pipeline: FakePipeline) -> None:
    from flows.single_stage import single_stage

    run()
    model = next(artifact for artifact in open_store().list("model") if artifact.summary["made"] == "base")
    fake_pipeline.ran.clear()
    trained = single_stage(stage="relaxation", recipe="micro", model=model.path)

    assert fake_pipeline.ran == ["relaxation"]
    about = open_store().manifest(trained).about
    assert about["inputs"]["model"]["digest"] == model.digest
