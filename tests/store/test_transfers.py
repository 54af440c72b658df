from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mirage_core.errors import ArtifactError, StoreUnavailable
from mirage_core.store import Store, fingerprint
from mirage_core.store import transfer as transfer_module
from mirage_core.store.manifest import describe_folder
from mirage_core.store.transfer import TransferProgress
from mirage_core.types import ProgressEvent

FolderOf = Callable[..., Path]
PRINT = fingerprint("stage", 1, {"a": 1}, {})
RUN = "ab" * 32


@pytest.fixture
def sent(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were uploaded, in order."""
    real, names = type(store.backend).put, []

    def put(self: object, source: Path, key: str, *rest: object) -> None:
        real(self, source, key, *rest)  # type: ignore[arg-type]
        names.append(key.rpartition("/")[2])

    monkeypatch.setattr(type(store.backend), "put", put)
    return names


def test_what_a_killed_upload_has_left_is_not_sent_again(
    local_store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(a="one", b="two", c="three")
    backend, names = type(local_store.backend), []
    real = backend.put

    def put(self: object, file: Path, key: str, *rest: object) -> None:
        if len(names) == 2:
            names.append("killed")
            raise KeyboardInterrupt
        names.append(file.name)
        real(self, file, key, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "put", put)
    with pytest.raises(KeyboardInterrupt):
        local_store.publish("model", PRINT, source, summary={}, about={})
    artifact = local_store.publish("model", PRINT, source, summary={}, about={})
    assert names == ["a", "b", "killed", "c"]
    assert local_store.verify(artifact) == []


def test_a_left_file_of_the_right_size_and_other_content_is_sent_again(
    store: Store, folder: FolderOf, sent: list[str]
) -> None:
    source = folder(a="one", b="two")
    first = store.publish("model", PRINT, source, summary={}, about={})
    inside = f"{first.path}/{store.manifest(first).folder}"
    store.backend.remove(f"{first.path}/manifest.json")
    store.backend.write(f"{inside}/a", b"onE")
    sent.clear()
    again = store.publish("model", PRINT, source, summary={}, about={})
    assert "a" in sent
    assert store.verify(again) == []


def test_files_that_have_not_changed_since_the_checkpoint_before_are_linked(
    local_store: Store, folder: FolderOf
) -> None:
    local_store.save_checkpoint(RUN, 10, folder(frozen="always the same", state="10"))
    local_store.save_checkpoint(RUN, 20, folder(frozen="always the same", state="20"))
    root = Path(local_store.url) / "checkpoints" / RUN[:20]
    old, new = (next((root / step).glob("files-*")) for step in ("00000010", "00000020"))
    assert (old / "frozen").stat().st_ino == (new / "frozen").stat().st_ino
    assert (old / "state").stat().st_ino != (new / "state").stat().st_ino
    local_store.save_checkpoint(RUN, 30, folder(frozen="always the same", state="30"))
    step, path = local_store.latest_checkpoint(RUN) or (0, Path())
    assert (step, (path / "frozen").read_text()) == (30, "always the same")
    assert not old.exists()


def test_damage_is_not_carried_from_one_checkpoint_to_the_next(local_store: Store, folder: FolderOf) -> None:
    local_store.save_checkpoint(RUN, 10, folder(frozen="the same", state="10"))
    (file,) = (Path(local_store.url) / "checkpoints" / RUN[:20] / "00000010").glob("files-*/frozen")
    file.write_text("tHe same")
    local_store.save_checkpoint(RUN, 20, folder(frozen="the same", state="20"))
    step, path = local_store.latest_checkpoint(RUN) or (0, Path())
    assert (step, (path / "frozen").read_text()) == (20, "the same")


def test_a_damaged_checkpoint_is_removed_when_it_is_passed_over(store: Store, folder: FolderOf) -> None:
    for step in (10, 20):
        store.save_checkpoint(RUN, step, folder(state=f"step {step}"))
    at = f"checkpoints/{RUN[:20]}/00000020"
    name = next(name for name in store.backend.sizes(at) if name.endswith("state"))
    store.backend.write(f"{at}/{name}", b"sTep 20")
    assert (store.latest_checkpoint(RUN) or (0,))[0] == 10
    assert store.backend.sizes(at) == {}


def test_progress_is_told_by_the_thread_that_stores_and_in_steps(
    store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer_module, "REPORT_BYTES", 100)
    monkeypatch.setattr(transfer_module, "POLL_S", 0.001)
    source = folder(**{f"f{n}": "x" * 100 for n in range(10)})
    events: list[ProgressEvent] = []
    threads: set[int] = set()

    def on_progress(event: ProgressEvent) -> None:
        events.append(event)
        threads.add(threading.get_ident())

    artifact = store.publish("model", PRINT, source, summary={}, about={}, progress=on_progress)
    assert threads == {threading.get_ident()}
    assert events[-1].metrics == {"bytes": 1000.0, "of_bytes": 1000.0}
    assert all(event.message.startswith(f"storing {artifact.path}: ") and event.step is None for event in events)
    done = [event.metrics["bytes"] for event in events]
    assert done == sorted(set(done))
    store.fetch(artifact, on_progress)
    assert threads == {threading.get_ident()}


def test_a_small_transfer_is_not_told() -> None:
    transferred = TransferProgress("storing x", 1000, lambda event: pytest.fail("told"))
    transferred.count(1000)
    transferred.report()


def test_an_error_in_one_of_many_uploads_ends_them_and_is_raised(
    store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(self: object, source: Path, key: str, *rest: object) -> None:
        raise StoreUnavailable(f"cannot write {key}")

    monkeypatch.setattr(type(store.backend), "put", put)
    with pytest.raises(StoreUnavailable, match="cannot write"):
        store.publish("model", PRINT, folder(a="1", b="2"), summary={}, about={})
    assert store.find("model", PRINT) is None


def test_a_folder_that_is_still_written_to_is_refused(
    store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(a="one")
    before = describe_folder(source)
    (source / "a").write_text("one and more")
    monkeypatch.setattr("mirage_core.store.store.describe_folder", lambda _: before)
    with pytest.raises(ArtifactError, match="still written to"):
        store.publish("model", PRINT, source, summary={}, about={})
    assert store.find("model", PRINT) is None
