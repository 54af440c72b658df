"""The record of a run while it runs, after it was killed, and in the attempt that follows."""

from __future__ import annotations

from typing import Any

import pytest

from mirage_core.errors import StoreUnavailable, TrainingError
from mirage_core.pipeline.run_record import RunRecord, newest_record
from mirage_core.pipeline.run_tracker import RunTracker
from mirage_core.store import Store
from mirage_core.types import Artifact
from tests.pipeline.fakes import settings

FLOW_RUN = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER = "0f8fad5b-0000-0000-0000-000000000000"


def artifact(digest: str = "d1") -> Artifact:
    return Artifact(kind="fake", path=f"fake/{digest}", digest=digest, summary={})


def track_run(store: Store, flow_run: str | None = FLOW_RUN) -> RunTracker:
    return RunTracker(settings(), store, flow_run)


def test_a_run_is_recorded_as_running_from_its_start_and_after_each_stage(store: Store) -> None:
    with track_run(store) as tracker:
        assert newest_record(store).state == "Running"
        run_stage(tracker, "problems", artifact())
        seen = newest_record(store)
        assert (seen.state, [line.name for line in seen.stages]) == ("Running", ["problems"])
    assert newest_record(store) == tracker.record
    assert tracker.record.state == "Completed"


def test_an_attempt_that_was_killed_is_marked_and_told_by_the_next(store: Store) -> None:
    killed = track_run(store)
    killed.__enter__()
    run_stage(killed, "problems", artifact())
    with track_run(store, OTHER):
        pass
    with pytest.raises(TrainingError), track_run(store) as failed:
        fail_stage(failed, "base", TrainingError("nan"))
    with track_run(store) as last:
        run_stage(last, "problems", artifact(), cached=True)

    attempts = [(attempt.id, attempt.state) for attempt in last.record.attempts]
    assert attempts == [(killed.record.id, "Crashed"), (failed.record.id, "Failed")]
    assert last.record.attempts[0].wall_seconds >= 0
    states = [read(store, name).state for name in store.names("runs/")]
    assert sorted(states) == ["Completed", "Completed", "Crashed", "Failed"]


def test_a_cancelled_run_is_told_from_a_failed_one(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), track_run(store) as tracker:
        fail_stage(tracker, "problems", KeyboardInterrupt())
    assert newest_record(store).state == "Cancelled"


def test_a_stage_that_was_made_again_has_one_line_with_all_its_seconds(store: Store) -> None:
    with track_run(store) as tracker:
        run_stage(tracker, "problems", artifact("a"))
        run_stage(tracker, "examples", artifact("b"))
        with pytest.raises(TrainingError):
            fail_stage(tracker, "base", TrainingError("lost"))
        tracker.add_fault("examples/b is damaged")
        run_stage(tracker, "problems", artifact("a"), cached=True)
        run_stage(tracker, "examples", artifact("c"))
        run_stage(tracker, "base", artifact("d"))
    lines = [(line.name, line.state, line.digest) for line in tracker.record.stages]
    assert lines == [("problems", "Completed", "a"), ("examples", "Completed", "c"), ("base", "Completed", "d")]
    assert tracker.record.faults == ("examples/b is damaged",)


def test_a_store_that_is_away_between_two_stages_does_not_end_the_run(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = Store.write_json, []

    def away_for_a_while(self: Store, path: str, value: Any) -> None:
        calls.append(path)
        if len(calls) in (2, 3):  # after a stage, and the first try at the end
            raise StoreUnavailable("503")
        write(self, path, value)

    monkeypatch.setattr(Store, "write_json", away_for_a_while)
    monkeypatch.setattr("mirage_core.pipeline.recovery.DELAYS_S", (0, 0))
    with track_run(store) as tracker:
        run_stage(tracker, "problems", artifact())
    assert newest_record(store).state == "Completed"
    assert len(calls) == 4


def run_stage(tracker: RunTracker, name: str, result: Artifact, *, cached: bool = False) -> None:
    with tracker.stage(name) as finish:
        finish(result, cached)


def fail_stage(tracker: RunTracker, name: str, error: BaseException) -> None:
    with tracker.stage(name):
        raise error


def read(store: Store, name: str) -> RunRecord:
    return RunRecord.model_validate(store.read_json(name))
