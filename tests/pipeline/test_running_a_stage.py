"""One stage: fingerprint, store, work, publication."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mirage_core.errors import ArtifactDamaged, ArtifactError, InputError, StoreUnavailable, TrainingError
from mirage_core.pipeline.stage import StageContext, run_stage, stage_fingerprint
from mirage_core.store import Store
from mirage_core.types import ProgressEvent
from tests.pipeline.fakes import Events, settings, stage, write_one


def test_a_stage_runs_once_and_is_cached_afterwards(store: Store) -> None:
    events = Events()
    first = run_stage(stage(write_one), settings(), {}, store, events)
    again = run_stage(stage(write_one), settings(runtime={"processes": 1}), {}, store, events)
    assert (first.cached, again.cached) == (False, True)
    assert first.artifact == again.artifact
    assert [message.split()[0].rstrip(":") for message in events.messages] == ["started", "done", "cached"]
    about = store.manifest(first.artifact).about
    assert (about["stage"], about["version"], about["settings"]["recipe"]) == ("fake", 1, "fake")
    assert about["seconds"] >= 0


def test_version_settings_inputs_and_parameters_make_another_artifact(store: Store) -> None:
    first, other = (run_stage(stage(write_one), settings(seed=seed), {}, store, Events()).artifact for seed in (1, 2))
    taking = stage(write_one, name="taking", inputs=("given",))
    prints = {
        stage_fingerprint(taking, settings(), {"given": first}),
        stage_fingerprint(taking, settings(), {"given": other}),
        stage_fingerprint(taking, settings(seed=3), {"given": first}),
        stage_fingerprint(stage(write_one, name="taking", inputs=("given",), version=2), settings(), {"given": first}),
    }
    assert len(prints) == 4
    with_method = stage(write_one, params=("method",))
    a, b = (stage_fingerprint(with_method, settings(), {}, {"method": name}) for name in "ab")
    assert a != b


def test_wrong_inputs_and_parameters_are_refused_before_anything_runs(store: Store) -> None:
    with pytest.raises(InputError, match=r"fake got the inputs \[\], expected \['model'\]"):
        run_stage(stage(write_one, inputs=("model",)), settings(), {}, store, Events())
    with pytest.raises(InputError, match="parameters"):
        run_stage(stage(write_one), settings(), {}, store, Events(), {"method": "x"})


def test_a_failed_stage_leaves_nothing_in_the_store(store: Store) -> None:
    def fail(context: StageContext) -> dict[str, Any]:
        (context.output / "half.txt").write_text("half")
        raise TrainingError("the loss is not finite")

    with pytest.raises(TrainingError, match="not finite"):
        run_stage(stage(fail), settings(), {}, store, Events())
    assert store.backend.sizes("") == {}


@pytest.mark.parametrize(
    "problem",
    [OSError(28, "No space left on device"), RuntimeError("safetensors: No space left on device (os error 28)")],
)
def test_a_full_disk_says_the_way_out_whoever_noticed_it(store: Store, problem: Exception) -> None:
    def fail(context: StageContext) -> dict[str, Any]:
        raise problem

    with pytest.raises(StoreUnavailable, match=r"stage fake: no space left.*Free some room"):
        run_stage(stage(fail), settings(), {}, store, Events())


def test_a_store_that_cannot_be_written_is_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError):
        run_stage(
            stage(lambda context: pytest.fail("it ran")), settings(), {}, Store.open(tmp_path / "file/x"), Events()
        )


def test_a_damaged_input_is_named_before_the_work(store: Store) -> None:
    artifact = run_stage(stage(write_one), settings(), {}, store, Events()).artifact
    file = store.fetch(artifact) / "result.json"
    file.write_bytes(file.read_bytes().replace(b"[", b"("))
    after = stage(lambda context: pytest.fail("it ran"), name="after", inputs=("given",))
    with pytest.raises(ArtifactDamaged, match=rf"{artifact.path}.*result.json"):
        run_stage(after, settings(), {"given": artifact}, store, Events())


def test_an_incomplete_artifact_is_made_anew(store: Store) -> None:
    artifact = run_stage(stage(write_one), settings(), {}, store, Events()).artifact
    (store.fetch(artifact) / "result.json").unlink()
    again = run_stage(stage(write_one), settings(), {}, store, Events())
    assert not again.cached
    assert store.verify(again.artifact) == []


def test_a_store_that_loses_what_it_was_given_is_noticed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "find", lambda *_: None)
    with pytest.raises(ArtifactError, match="something else writes to or deletes from"):
        run_stage(stage(write_one), settings(), {}, store, Events())


def test_progress_carries_the_stages_own_name(store: Store) -> None:
    def work(context: StageContext) -> dict[str, Any]:
        context.progress(ProgressEvent(stage="inner", step=1, total=2))
        return write_one(context)

    events = Events()
    run_stage(stage(work, name="evaluation", params=("method",)), settings(), {}, store, events, {"method": "grpo"})
    assert {event.stage for event in events.seen} == {"evaluation/grpo"}


def test_kept_scratch_survives_a_failure_and_goes_after_success(store: Store) -> None:
    tries: list[list[str]] = []

    def work(context: StageContext) -> dict[str, Any]:
        tries.append(sorted(path.name for path in context.scratch.iterdir()))
        (context.scratch / f"batch-{len(tries)}").write_text("done")
        if len(tries) < 2:
            raise TrainingError("killed")
        return write_one(context)

    keeping = stage(work, keeps_scratch=True)
    with pytest.raises(TrainingError):
        run_stage(keeping, settings(), {}, store, Events())
    run_stage(keeping, settings(), {}, store, Events())
    assert tries == [[], ["batch-1"]]
    assert [path for path in store.cache.rglob("*") if path.name != "unfinished"] == []  # nor a lock


def test_scratch_of_a_process_killed_after_publishing_goes_when_the_stage_is_found(store: Store) -> None:
    keeping = stage(write_one, keeps_scratch=True)
    artifact = run_stage(keeping, settings(), {}, store, Events()).artifact
    left = store.cache / "unfinished" / store.manifest(artifact).fingerprint[:20]
    left.mkdir(parents=True)
    (left / "batch-1").write_text("done")
    assert run_stage(keeping, settings(), {}, store, Events()).cached
    assert not left.exists()


def test_the_stages_and_the_recipes_import_without_torch() -> None:
    code = (
        "import sys, mirage_core.pipeline.runner, mirage_core.recipes; "
        "print([m for m in ('torch', 'transformers', 'datasets', 'prefect') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
