from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mirage_core.errors import ArtifactDamaged, ArtifactMissing
from mirage_core.store import Store, fingerprint
from mirage_core.store import quarantine as quarantine_module
from mirage_core.store.manifest import MANIFEST
from mirage_core.types import Artifact

FolderOf = Callable[..., Path]
PRINT = fingerprint("stage", 1, {"a": 1}, {})


def publish(store: Store, folder: Path) -> Artifact:
    return store.publish("model", PRINT, folder, summary={"n": 1}, about={"stage": "test"})


def key_of(store: Store, artifact: Artifact, name: str) -> str:
    return f"{artifact.path}/{store.manifest(artifact).folder}/{name}"


def harmed(store: Store, artifact: Artifact, harm: str) -> None:
    key = key_of(store, artifact, "a")
    if harm == "flipped":
        store.backend.write(key, b"onE")
    elif harm == "short":
        store.backend.write(key, b"o")
    elif harm == "missing":
        store.backend.remove(key)
    else:
        store.backend.write(f"{artifact.path}/{MANIFEST}", b'{"kind": ')


HARMS = ["flipped", "short", "missing", "broken manifest"]


@pytest.mark.parametrize("harm", HARMS)
def test_what_is_read_damaged_is_out_of_use_and_can_be_published_again(
    store: Store, folder: FolderOf, harm: str
) -> None:
    artifact = publish(store, folder(a="one", b="two"))
    harmed(store, artifact, harm)
    with pytest.raises(ArtifactDamaged, match=r"taken out of use \(quarantine/model/.*run again, its stage makes it"):
        store.fetch(artifact)
    assert store.find("model", PRINT) is None
    assert store.list() == []
    with pytest.raises(ArtifactMissing, match="run its stage again"):
        store.fetch(artifact)
    again = publish(store, folder(a="one", b="two"))
    assert again == artifact
    assert store.verify(again) == []
    assert (store.fetch(again) / "a").read_text() == "one"


def test_the_record_tells_the_fault_and_keeps_the_manifest(store: Store, folder: FolderOf) -> None:
    artifact = publish(store, folder(a="one", b="two"))
    manifest = store.backend.read(f"{artifact.path}/{MANIFEST}")
    harmed(store, artifact, "flipped")
    record = store.quarantine(artifact, "found by hand")
    assert record is not None
    content = store.read_json(record)
    assert record.startswith(f"quarantine/{artifact.path}/")
    assert content["fault"] == "a has another sha256 than its manifest says"
    assert (content["path"], content["manifest"]) == (artifact.path, manifest.decode())
    assert len(content["folders"]) == 1


def test_a_good_artifact_is_not_taken_out_of_use_whatever_is_said_of_it(store: Store, folder: FolderOf) -> None:
    artifact = publish(store, folder(a="one"))
    assert store.quarantine(artifact, "a reader says so") is None
    assert store.find("model", PRINT) == artifact
    assert store.backend.sizes("quarantine") == {}


def test_a_handle_to_other_content_takes_nothing_out_of_use(store: Store, folder: FolderOf) -> None:
    old = publish(store, folder(a="one"))
    store.remove(old)
    newer = publish(store, folder(a="two"))
    store.backend.write(key_of(store, newer, "a"), b"twO")
    assert store.quarantine(old, "an old reader says so") is None
    assert store.find("model", PRINT) == newer
    store.remove(newer)
    assert store.quarantine(newer, "nothing is there") is None


def test_a_damaged_file_of_the_same_size_is_never_part_of_the_next_artifact(store: Store, folder: FolderOf) -> None:
    """Also not when somebody puts the damage back after it was noticed: the old folder stays out of use."""
    artifact = publish(store, folder(a="one"))
    key = key_of(store, artifact, "a")
    harmed(store, artifact, "flipped")
    store.quarantine(artifact, "x")
    again = publish(store, folder(a="one"))
    assert key_of(store, again, "a") != key
    store.backend.write(key, b"OOO")
    assert store.verify(again) == []


def test_a_publication_between_the_second_look_and_the_removal_stays(
    store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader is overtaken: another one takes the damage out and a publisher mends it, all before it acts."""
    artifact = publish(store, folder(a="one"))
    harmed(store, artifact, "flipped")
    real = quarantine_module.file_faults

    def overtaken(*arguments: object) -> list[str]:
        monkeypatch.setattr(quarantine_module, "file_faults", real)
        result = real(*arguments)  # type: ignore[arg-type]
        assert store.quarantine(artifact, "the other reader") is not None
        publish(store, folder(a="one"))
        return result

    monkeypatch.setattr(quarantine_module, "file_faults", overtaken)
    assert store.quarantine(artifact, "the slow reader") is None
    assert store.find("model", PRINT) == artifact
    assert store.verify(artifact) == []
    assert len(store.names("quarantine")) == 1


@pytest.mark.parametrize("removed", ["at once", "afterwards", "with its record"])
def test_a_folder_taken_out_of_use_while_it_is_filled_is_filled_anew(
    store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch, removed: str
) -> None:
    """Whoever takes out a folder after the publisher has looked is seen by the publisher in the end."""
    backend, out = type(store.backend), []
    real = backend.create

    def create(self: object, key: str, data: bytes) -> bool:
        first = key.endswith(MANIFEST) and not out
        if first:
            path = key.removesuffix(f"/{MANIFEST}")
            folders = quarantine_module.file_folders(store.backend, path)
            assert quarantine_module.retire(store.backend, path, None, folders, "thought to be left behind")
            out.extend(f"{path}/{name}" for name in folders)
            if removed != "afterwards":
                store.backend.remove(out[0])
            if removed == "with its record":
                store.backend.remove("quarantine")
        return real(self, key, data)  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "create", create)
    artifact = publish(store, folder(a="one", b="two"))
    if removed == "afterwards":
        store.backend.remove(out[0])
    assert store.find("model", PRINT) == artifact
    assert store.verify(artifact) == []


def test_many_readers_of_one_damage_and_a_publisher_end_with_one_good_artifact(store: Store, folder: FolderOf) -> None:
    artifact = publish(store, folder(a="one", b="two"))
    harmed(store, artifact, "flipped")
    again = folder(a="one", b="two")
    odd: list[BaseException] = []

    def heal() -> None:
        try:
            for _ in range(20):
                try:
                    store.fetch(artifact)
                    return
                except (ArtifactDamaged, ArtifactMissing):
                    publish(store, again)
            odd.append(AssertionError("never healed"))
        except BaseException as error:
            odd.append(error)

    threads = [threading.Thread(target=heal) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert odd == []
    assert store.find("model", PRINT) == artifact
    assert store.verify(artifact) == []


def test_a_store_that_cannot_be_written_says_so_beside_the_damage(
    local_store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(local_store, folder(a="one"))
    harmed(local_store, artifact, "flipped")

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(ArtifactDamaged, match=r"another sha256.*could not be taken out of use.*not allowed"):
        local_store.fetch(artifact)


def test_a_manifest_names_its_folder_in_plain_digits_only(local_store: Store, folder: FolderOf) -> None:
    artifact = publish(local_store, folder(a="one"))
    path = Path(local_store.url) / artifact.path / MANIFEST
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"edition": "/../.."}))
    assert local_store.find("model", PRINT) is None
