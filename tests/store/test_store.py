from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_core.errors import (
    ArtifactDamaged,
    ArtifactError,
    ArtifactMissing,
    InputError,
    SettingsError,
    StoreUnavailable,
)
from mirage_core.store import Store, fingerprint
from mirage_core.store.backends import local as local_backend
from mirage_core.store.manifest import safe_name
from mirage_core.types import Artifact

FolderOf = Callable[..., Path]
PRINT = fingerprint("stage", 1, {"a": 1}, {})
OTHER = fingerprint("stage", 1, {"a": 2}, {})


def publish(store: Store, folder: Path, kind: str = "model", print_: str = PRINT) -> Artifact:
    return store.publish(kind, print_, folder, summary={"n": 1}, about={"stage": "test"})


def stored(store: Store, artifact: Artifact, name: str) -> Path:
    return Path(store.url) / artifact.path / store.manifest(artifact).folder / name


def test_what_is_published_is_found_and_fetched_byte_for_byte(store: Store, folder: FolderOf) -> None:
    assert store.find("model", PRINT) is None
    artifact = publish(store, folder(**{"a.txt": "one", "sub/b.txt": "two"}))
    assert store.find("model", PRINT) == artifact
    assert artifact.path == f"model/{PRINT[:20]}"
    assert artifact.summary == {"n": 1}
    fetched = store.fetch(artifact)
    assert (fetched / "a.txt").read_text() == "one"
    assert (fetched / "sub/b.txt").read_text() == "two"
    assert store.verify(artifact) == []


def test_the_manifest_tells_files_digest_summary_and_about(store: Store, folder: FolderOf) -> None:
    artifact = publish(store, folder(a="one"))
    manifest = store.manifest(artifact)
    assert [(entry.name, entry.size) for entry in manifest.files] == [("a", 3)]
    assert manifest.digest == artifact.digest
    assert manifest.about["stage"] == "test"
    assert "created" in manifest.about


def test_the_digest_depends_on_the_files_only(store: Store, folder: FolderOf) -> None:
    first = publish(store, folder(a="one"))
    second = store.publish("other", OTHER, folder(a="one"), summary={}, about={"host": "elsewhere"})
    third = publish(store, folder(a="two"), print_=OTHER)
    assert first.digest == second.digest != third.digest


def test_the_first_good_artifact_of_a_fingerprint_wins(store: Store, folder: FolderOf) -> None:
    first = publish(store, folder(a="one"))
    assert publish(store, folder(a="two")) == first
    assert (store.fetch(first) / "a").read_text() == "one"


def test_a_local_store_gives_its_own_folder_and_takes_a_tilde(
    folder: FolderOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    store = Store.open("~/root")
    assert store.url == str(tmp_path / "root")
    fetched = store.fetch(publish(store, folder(a="one")))
    assert fetched.is_relative_to(tmp_path / "root")
    assert Store.open(f"file://{tmp_path}/root").find("model", PRINT) is not None


def test_files_without_a_manifest_are_nothing(store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(store.backend), "create", die)
        with pytest.raises(KeyboardInterrupt):
            publish(store, folder(a="half of it"))
    assert store.find("model", PRINT) is None
    assert store.list() == []
    artifact = publish(store, folder(a="all of it"))
    assert (store.fetch(artifact) / "a").read_text() == "all of it"


def test_a_damaged_file_is_noticed_and_named(local_store: Store, folder: FolderOf) -> None:
    artifact = publish(local_store, folder(**{"weights.bin": "abc"}))
    local_store.fetch(artifact)
    stored(local_store, artifact, "weights.bin").write_text("abX")
    assert "weights.bin" in local_store.verify(artifact)[0]
    with pytest.raises(ArtifactDamaged, match=rf"{artifact.path}.*weights.bin has another sha256"):
        local_store.fetch(artifact)


def test_damage_in_a_remote_store_is_noticed_and_named(folder: FolderOf, tmp_path: Path) -> None:
    store = Store.open("memory://damage/here", cache=tmp_path / "cache")
    artifact = publish(store, folder(a="abc"))
    store.backend.write(f"{artifact.path}/{store.manifest(artifact).folder}/a", b"abX")
    assert store.verify(artifact) == ["a has another sha256 than its manifest says"]
    with pytest.raises(ArtifactDamaged, match="a has another sha256"):
        store.fetch(artifact)


def test_a_damaged_copy_in_the_cache_is_downloaded_again(folder: FolderOf, tmp_path: Path) -> None:
    store = Store.open("memory://cached/here", cache=tmp_path / "cache")
    artifact = publish(store, folder(a="abc"))
    copy = store.fetch(artifact) / "a"
    copy.write_text("abX")
    assert (store.fetch(artifact) / "a").read_text() == "abc"


@pytest.mark.parametrize("harm", ["missing", "short", "no manifest", "broken manifest"])
def test_a_faulty_artifact_counts_as_absent_and_is_replaced(
    store: Store, folder: FolderOf, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    artifact = publish(store, folder(a="one", b="two"))
    key = f"{artifact.path}/{store.manifest(artifact).folder}/a"
    if harm == "missing":
        store.backend.remove(key)
    elif harm == "short":
        store.backend.write(key, b"o")
    elif harm == "no manifest":
        store.backend.remove(f"{artifact.path}/manifest.json")
    else:
        store.backend.write(f"{artifact.path}/manifest.json", b'{"kind": ')
    with caplog.at_level(logging.WARNING):
        assert store.find("model", PRINT) is None
    assert (artifact.path in caplog.text) == (harm != "no manifest")
    again = publish(store, folder(a="one", b="two"))
    assert again == artifact
    assert store.verify(again) == []


def test_a_removed_artifact_is_missing_and_says_the_way_out(store: Store, folder: FolderOf) -> None:
    artifact = publish(store, folder(a="one"))
    store.remove(artifact)
    assert store.find("model", PRINT) is None
    with pytest.raises(ArtifactMissing, match=f"{artifact.path} is not in .* run its stage again"):
        store.fetch(artifact)
    assert store.verify(artifact) != []


def test_a_handle_to_older_content_is_refused(store: Store, folder: FolderOf) -> None:
    old = publish(store, folder(a="one"))
    store.remove(old)
    publish(store, folder(a="two"))
    with pytest.raises(ArtifactMissing, match="replaced meanwhile"):
        store.fetch(old)


def test_artifacts_are_listed_newest_first_and_by_kind(store: Store, folder: FolderOf) -> None:
    first = publish(store, folder(a="one"))
    second = publish(store, folder(a="two"), kind="problems", print_=OTHER)
    store.write_json("runs/x.json", {})
    store.save_checkpoint(PRINT, 1, folder(a="state"))
    assert store.list() == [second, first]
    assert store.list("model") == [first]
    assert store.list("nothing") == []


def test_an_artifact_is_got_by_path_and_by_the_start_of_path_or_digest(store: Store, folder: FolderOf) -> None:
    first = publish(store, folder(a="one"))
    second = publish(store, folder(a="two"), print_=OTHER)
    assert store.get(first.path) == first
    assert store.get(second.digest[:12]) == second
    with pytest.raises(ArtifactMissing, match="mirage store ls"):
        store.get("zzz")
    with pytest.raises(ArtifactError, match="not one artifact but 2"):
        store.get("model/")


def test_concurrent_publishers_end_with_one_good_artifact(store: Store, folder: FolderOf) -> None:
    folders = [folder(a=f"result {number}", b="x" * 1000 * number) for number in range(6)]
    results: list[Artifact] = []
    threads = [threading.Thread(target=lambda f=f: results.append(publish(store, f))) for f in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert len({artifact.digest for artifact in results}) == 1
    assert store.find("model", PRINT) == results[0]
    assert store.verify(results[0]) == []


def test_an_empty_folder_and_a_link_are_refused_and_leave_nothing(store: Store, folder: FolderOf) -> None:
    with pytest.raises(ArtifactError, match="no file"):
        publish(store, folder())
    linked = folder(a="one")
    (linked / "link").symlink_to("/etc/hostname")
    with pytest.raises(ArtifactError, match="link"):
        publish(store, linked)
    assert store.backend.sizes("") == {}


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "a/../../b", "a//b", "", "a\\b", "a\0b", ".", "a/.."])
def test_a_manifest_whose_names_leave_their_folder_is_refused(local_store: Store, folder: FolderOf, name: str) -> None:
    artifact = publish(local_store, folder(a="one"))
    path = Path(local_store.url) / artifact.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][0]["name"] = name
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactDamaged, match=r"refused|not a manifest"):
        local_store.fetch(artifact)
    assert local_store.find("model", PRINT) is None


@given(st.text(max_size=30))
def test_a_safe_name_never_leaves_its_folder(name: str) -> None:
    try:
        safe_name(name)
    except InputError:
        return
    joined = os.path.normpath(os.path.join("/root/files", name))
    assert joined.startswith("/root/files/")


@pytest.mark.parametrize("path", ["../x", "model", "model/a/b", "runs/a", "checkpoints/a", "/model/a"])
def test_an_artifact_path_outside_the_artifacts_is_refused(store: Store, path: str) -> None:
    with pytest.raises(InputError):
        store.fetch(Artifact(kind="model", path=path, digest="0" * 64))
    with pytest.raises(InputError):
        store.remove(Artifact(kind="model", path=path, digest="0" * 64))


def test_a_full_disk_is_said_as_such_and_leaves_nothing_half_written(
    local_store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local_backend.shutil, "copyfile", full)
    with pytest.raises(StoreUnavailable, match=r"no space left.*run again"):
        publish(local_store, folder(a="one"))
    assert local_store.backend.sizes("") == {}
    assert list((Path(local_store.url) / ".tmp").iterdir()) == []


def test_a_root_that_cannot_be_written_is_an_error_with_the_way_out(tmp_path: Path, folder: FolderOf) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    store = Store.open(tmp_path / "file" / "store")
    with pytest.raises(ArtifactError, match="there is a file where a folder is expected"):
        publish(store, folder(a="one"))
    with pytest.raises(ArtifactError):
        store.check_writable()


def test_a_store_that_does_not_answer_is_transient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    remote = Store.open("memory://gone/away", cache=tmp_path)

    def down(*_: object, **__: object) -> None:
        raise ConnectionError("connection refused")

    monkeypatch.setattr(remote.backend.system, "cat_file", down)  # type: ignore[attr-defined]
    with pytest.raises(StoreUnavailable, match="reachable") as caught:
        remote.find("model", PRINT)
    assert caught.value.transient


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot be opened"):
        Store.open("nonsense://bucket")


def test_records_are_written_read_and_named(store: Store) -> None:
    assert store.names("runs/") == []
    store.write_json("runs/b.json", {"x": [1]})
    store.write_json("runs/a.json", 1)
    store.write_json("runs/b.json", {"x": [2]})
    assert store.names("runs/") == ["runs/a.json", "runs/b.json"]
    assert store.read_json("runs/b.json") == {"x": [2]}
    with pytest.raises(ArtifactMissing, match=r"runs/c.json"):
        store.read_json("runs/c.json")
    with pytest.raises(InputError):
        store.write_json("../outside.json", 1)


def test_repeated_fetches_do_not_read_the_bytes_again(
    local_store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(local_store, folder(a="one"))
    file = stored(local_store, artifact, "a")
    os.utime(file, (1e9, 1e9))
    local_store.fetch(artifact)
    module = sys.modules["mirage_core.store.digests"]
    monkeypatch.setattr(module, "file_sha256", lambda path: pytest.fail(f"{path} was read again"))
    local_store.fetch(artifact)
    file.write_text("two")
    monkeypatch.undo()
    with pytest.raises(ArtifactDamaged):
        local_store.fetch(artifact)


def test_two_stores_of_one_root_see_each_other(store: Store, folder: FolderOf, tmp_path: Path) -> None:
    artifact = publish(store, folder(a="one"))
    other = Store.open(store.url, cache=tmp_path / "other")
    assert (other.fetch(other.get(artifact.path)) / "a").read_text() == "one"
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
