"""The record of a run while it runs, after it was killed, and in the attempt that follows."""

from __future__ import annotations

from typing import Any

import pytest

from mirage_core.errors import StoreUnavailable, TrainingError
from mirage_core.pipeline.run_record import RunRecord, newest_record
from mirage_core.pipeline.run_tracker import RunBook
from mirage_core.store import Store
from mirage_core.types import Artifact
from tests.stages.fakes import settings

FLOW_RUN = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER = "0f8fad5b-0000-0000-0000-000000000000"


def artifact(digest: str = "d1") -> Artifact:
    return Artifact(kind="fake", path=f"fake/{digest}", digest=digest, summary={})


def book(store: Store, flow_run: str | None = FLOW_RUN) -> RunBook:
    return RunBook(settings(), store, flow_run)


def test_a_run_is_recorded_as_running_from_its_start_and_after_each_stage(store: Store) -> None:
    with book(store) as kept:
        assert newest_record(store).state == "Running"
        kept.stage("problems", lambda: (artifact(), False))
        seen = newest_record(store)
        assert (seen.state, [line.name for line in seen.stages]) == ("Running", ["problems"])
    assert newest_record(store) == kept.record
    assert kept.record.state == "Completed"


def test_an_attempt_that_was_killed_is_marked_and_told_by_the_next(store: Store) -> None:
    killed = book(store)
    killed.__enter__()
    killed.stage("problems", lambda: (artifact(), False))
    with book(store, OTHER):
        pass
    with pytest.raises(TrainingError), book(store) as failed:
        failed.stage("base", lambda: fail(TrainingError("nan")))
    with book(store) as last:
        last.stage("problems", lambda: (artifact(), True))

    told = [(attempt.id, attempt.state) for attempt in last.record.attempts]
    assert told == [(killed.record.id, "Crashed"), (failed.record.id, "Failed")]
    assert last.record.attempts[0].wall_seconds >= 0
    states = [read(store, name).state for name in store.names("runs/")]
    assert sorted(states) == ["Completed", "Completed", "Crashed", "Failed"]


def test_a_cancelled_run_is_told_from_a_failed_one(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), book(store) as kept:
        kept.stage("problems", lambda: fail(KeyboardInterrupt()))
    assert newest_record(store).state == "Cancelled"


def test_a_stage_that_was_made_again_has_one_line_with_all_its_seconds(store: Store) -> None:
    with book(store) as kept:
        kept.stage("problems", lambda: (artifact("a"), False))
        kept.stage("examples", lambda: (artifact("b"), False))
        with pytest.raises(TrainingError):
            kept.stage("base", lambda: fail(TrainingError("lost")))
        kept.lost("examples/b is damaged")
        kept.stage("problems", lambda: (artifact("a"), True))
        kept.stage("examples", lambda: (artifact("c"), False))
        kept.stage("base", lambda: (artifact("d"), False))
    lines = [(line.name, line.state, line.digest) for line in kept.record.stages]
    assert lines == [("problems", "Completed", "a"), ("examples", "Completed", "c"), ("base", "Completed", "d")]
    assert kept.record.faults == ("examples/b is damaged",)


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
    with book(store) as kept:
        kept.stage("problems", lambda: (artifact(), False))
    assert newest_record(store).state == "Completed"
    assert len(calls) == 4


def fail(problem: BaseException) -> tuple[Artifact, bool]:
    raise problem


def read(store: Store, name: str) -> RunRecord:
    return RunRecord.model_validate(store.read_json(name))
