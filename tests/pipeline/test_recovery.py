"""Damage found in the middle of a run: only what was lost, and what it touches, runs again in the same run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mirage_core.attempts import Attempt
from mirage_core.errors import ArtifactDamaged, DataError, StoreUnavailable, TrainingProcessDied
from mirage_core.pipeline.recovery import JITTER, MAX_RERUNS, reruns_on_lost_artifact, transient_retries
from mirage_core.pipeline.runner import run_in_process
from mirage_core.pipeline.stage import StageContext, run_stage
from mirage_core.store import Store
from tests.pipeline.fakes import Events, fake_stages, settings, stage, write_one

SHORT = {"evaluation": {"methods": ["stage-2"]}}


def files_of(store: Store, kind: str) -> list[Path]:
    return [path for path in Path(store.url).glob(f"{kind}/*/files-*/*") if path.is_file()]


def delete(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [delete, flip])
def test_an_input_that_is_damaged_in_mid_run_is_made_again_and_the_run_completes(
    store: Store, monkeypatch: pytest.MonkeyPatch, damage: Any
) -> None:
    def run(name: str, context: StageContext) -> dict[str, Any]:
        if name == "grounding" and ran.count("grounding") == 1:
            damage(*files_of(store, "examples"))
        return write_one(context)

    ran = fake_stages(monkeypatch, run)
    events = Events()
    record = run_in_process(settings(**SHORT), store, events)

    assert ran == [
        "problems", "auxiliary-images", "base", "examples", "grounding", "examples", "relaxation",
        "evaluation/stage-2", "report",
    ]  # fmt: skip
    assert (record.state, {line.state for line in record.stages}) == ("Completed", {"Completed"})
    assert len(record.faults) == 1 and "examples/" in record.faults[0]
    assert any("pipeline runs again" in message for message in events.messages)
    assert [store.verify(artifact) for artifact in store.list()] == [[]] * len(store.list())


def test_what_a_changed_digest_touches_runs_again_and_nothing_else(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, context: StageContext) -> dict[str, Any]:
        summary = write_one(context)
        if name == "examples":
            (context.output / "made").write_text(f"the {ran.count('examples')}. time")
        if name == "relaxation" and ran.count("relaxation") == 1:
            delete(next(path for path in files_of(store, "examples") if path.name == "made"))
            raise TrainingProcessDied("killed")
        return summary

    ran = fake_stages(monkeypatch, run)
    monkeypatch.setattr("mirage_core.pipeline.recovery.DELAYS_S", (0,))
    run_in_process(settings(**SHORT), store, Events())

    assert ran.count("grounding") == 2, "its input has another digest now"
    assert [ran.count(name) for name in ("problems", "auxiliary-images", "base", "examples")] == [1, 1, 1, 2]


def test_all_lost_inputs_of_a_stage_are_found_in_one_walk(store: Store) -> None:
    artifacts = {
        seed: run_stage(stage(write_one), settings(seed=seed), {}, store, Events()).artifact for seed in (1, 2, 3)
    }
    for seed in (1, 3):
        delete(store.fetch(artifacts[seed]) / "result.json")
    inputs = {f"input_{seed}": artifact for seed, artifact in artifacts.items()}
    with pytest.raises(ArtifactDamaged) as caught:
        run_stage(stage(write_one, name="after", inputs=None), settings(), inputs, store, Events())
    assert caught.value.lost == (artifacts[1].path, artifacts[3].path)


def test_an_artifact_that_is_damaged_again_and_again_ends_the_run(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, context: StageContext) -> dict[str, Any]:
        return write_one(context)

    def broken_disk(self: Store, artifact: Any, *rest: Any) -> Path:
        if artifact.kind == "examples":
            self.remove(artifact)
            raise ArtifactDamaged("examples/x is damaged")
        return fetch(self, artifact, *rest)

    ran, fetch = fake_stages(monkeypatch, run), Store.fetch
    monkeypatch.setattr(Store, "fetch", broken_disk)
    with pytest.raises(ArtifactDamaged):
        run_in_process(settings(**SHORT), store, Events())
    assert ran.count("examples") == MAX_RERUNS
    assert (ran.count("problems"), ran.count("grounding")) == (1, 0)


def test_damage_that_nobody_names_is_walked_past_a_bounded_number_of_times() -> None:
    calls: list[int] = []

    def pipeline() -> None:
        calls.append(1)
        raise ArtifactDamaged("something")

    messages: list[str] = []
    with pytest.raises(ArtifactDamaged):
        complete(reruns_on_lost_artifact(messages.append), pipeline)
    assert (len(calls), len(messages)) == (MAX_RERUNS, MAX_RERUNS - 1)


def test_transient_faults_are_tried_again_after_growing_waits() -> None:
    faults: list[Exception] = [StoreUnavailable("503"), TrainingProcessDied("signal 9"), StoreUnavailable("gone")]
    slept: list[float] = []

    def work() -> str:
        if faults:
            raise faults.pop(0)
        return "done"

    messages: list[str] = []
    retries = transient_retries(messages.append, delays=(1, 2, 4, 8), sleep=slept.append)
    assert complete(retries, work) == "done"
    assert len(messages) == 3 and "503" in messages[0]
    for wait, least in zip(slept, (1, 2, 4), strict=True):
        assert least <= wait <= least * (1 + JITTER)


def test_the_last_transient_fault_is_raised_and_an_input_fault_at_once() -> None:
    calls: list[int] = []

    def unavailable() -> None:
        calls.append(1)
        raise StoreUnavailable("still away")

    with pytest.raises(StoreUnavailable):
        complete(quick_retries(), unavailable)
    assert len(calls) == 3

    def wrong() -> None:
        calls.append(1)
        raise DataError("row 3")

    with pytest.raises(DataError):
        complete(quick_retries(), wrong)
    assert len(calls) == 4


def quick_retries() -> Iterator[Attempt]:
    return transient_retries(lambda message: None, delays=(1, 2), sleep=lambda seconds: None)


def complete(attempts: Iterator[Attempt], work: Callable[[], Any]) -> Any:
    """The result of the first attempt that succeeds."""
    for attempt in attempts:
        with attempt:
            result = work()
    return result
