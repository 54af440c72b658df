"""Files in parts on a real S3 server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mirage_core.store import Store, fingerprint
from mirage_core.store.backends import fsspec as fsspec_backend
from mirage_core.store.backends.fsspec import FsspecBackend, part_bytes
from mirage_core.types import ProgressEvent
from tests.servers.swift import SwiftServer

pytestmark = pytest.mark.xdist_group("s3")  # one server for all

FolderOf = Callable[..., Path]
PRINT = fingerprint("stage", 1, {"a": 1}, {})
RUN = "cd" * 32
MIB = 2**20


@pytest.fixture
def s3_store(s3_server: SwiftServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store in a bucket of its own, which sends files from 10 MiB on in parts of 5."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(fsspec_backend, "PART_BYTES", 5 * MIB)  # the least that S3 takes
    monkeypatch.setattr(fsspec_backend, "DOWNLOAD_PART_BYTES", 5 * MIB)
    return Store.open(f"{s3_server.bucket()}/deep/prefix", cache=tmp_path / "cache")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were uploaded."""
    real, names = FsspecBackend.put, []

    def put(self: FsspecBackend, source: Path, key: str, *rest: object) -> None:
        real(self, source, key, *rest)  # type: ignore[arg-type]
        names.append(source.name)

    monkeypatch.setattr(FsspecBackend, "put", put)
    return names


def large(folder: Path, name: str = "weights.safetensors", size: int = 12 * MIB + 7) -> Path:
    (folder / name).write_bytes(os.urandom(size))
    return folder


def test_a_large_file_travels_in_parts_and_comes_back_byte_for_byte(
    s3_store: Store, s3_server: SwiftServer, folder: FolderOf
) -> None:
    source = large(folder(config="{}", empty=""))
    artifact = s3_store.publish("model", PRINT, source, summary={}, about={})
    fetched = s3_store.fetch(artifact)
    assert {path.name for path in fetched.iterdir()} == {"config", "empty", "weights.safetensors"}
    for path in source.iterdir():
        assert (fetched / path.name).read_bytes() == path.read_bytes()
    bucket, _, prefix = s3_store.url.removeprefix("s3://").partition("/")
    key = f"{prefix}/{artifact.path}/{s3_store.manifest(artifact).folder}/weights.safetensors"
    head = s3_server.client().head_object(Bucket=bucket, Key=key)
    assert head["ETag"].strip('"').endswith("-3")
    assert head["Metadata"]["sha256"] in {entry.sha256 for entry in s3_store.manifest(artifact).files}


def test_files_that_are_there_with_their_sha256_are_not_sent_again(
    s3_store: Store, folder: FolderOf, sent: list[str]
) -> None:
    source = large(folder(a="one", b="two"))
    first = s3_store.publish("model", PRINT, source, summary={}, about={})
    inside = f"{first.path}/{s3_store.manifest(first).folder}"
    s3_store.backend.remove(f"{first.path}/manifest.json")
    s3_store.backend.write(f"{inside}/a", b"onE")  # same size, written by who knows whom
    s3_store.backend.remove(f"{inside}/b")
    sent.clear()
    again = s3_store.publish("model", PRINT, source, summary={}, about={})
    assert sorted(sent) == ["a", "b"]
    assert s3_store.verify(again) == []


def test_files_that_have_not_changed_between_checkpoints_are_copied_on_the_server(
    s3_store: Store, folder: FolderOf, sent: list[str]
) -> None:
    frozen = large(folder(state="10"), "frozen")
    s3_store.save_checkpoint(RUN, 10, frozen)
    for step in (20, 30):
        (frozen / "state").write_text(str(step))
        sent.clear()
        s3_store.save_checkpoint(RUN, step, frozen)
        assert sent == ["state"]
    step, path = s3_store.latest_checkpoint(RUN) or (0, Path())
    assert step == 30
    assert (path / "frozen").read_bytes() == (frozen / "frozen").read_bytes()


def test_progress_is_told_part_by_part(s3_store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirage_core.store.transfer.REPORT_BYTES", MIB)
    monkeypatch.setattr("mirage_core.store.transfer.POLL_S", 0.001)
    events: list[ProgressEvent] = []
    source = large(folder(), size=21 * MIB)
    artifact = s3_store.publish("model", PRINT, source, summary={}, about={}, progress=events.append)
    done = [event.metrics["bytes"] for event in events]
    assert done == sorted(done) and done[-1] == 21 * MIB
    assert any(0 < count < 21 * MIB for count in done)
    events.clear()
    s3_store.fetch(artifact, events.append)
    assert events[-1].metrics["bytes"] == 21 * MIB


KILLED = """
import os, sys, pathlib
from mirage_core.store import Store
from mirage_core.store.backends import fsspec as fsspec_backend
fsspec_backend.PART_BYTES = 5 * 2**20
fsspec_backend.PARTS_AT_ONCE = 1
store = Store.open(sys.argv[1])
store.backend.put(pathlib.Path(sys.argv[2]), sys.argv[3], on_bytes=lambda size: os.kill(os.getpid(), 9))
"""


def test_an_upload_killed_between_its_parts_leaves_no_object_and_can_be_collected(
    s3_store: Store, folder: FolderOf, sent: list[str]
) -> None:
    source = large(folder(a="one"))
    key = f"model/{PRINT[:20]}/files-{'0' * 12}/weights.safetensors"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, s3_store.url, str(source / "weights.safetensors"), key], check=False
    )
    assert killed.returncode == -9
    assert s3_store.backend.sizes("") == {}
    (left,) = s3_store.garbage(-60)
    assert (left.sort, left.path, left.size) == ("unfinished", key, 5 * MIB)
    assert s3_store.garbage(3600) == []
    artifact = s3_store.publish("model", PRINT, source, summary={}, about={})
    s3_store.collect([left])
    assert s3_store.backend.unfinished() == []
    assert s3_store.verify(artifact) == []


def test_damage_on_s3_is_taken_out_of_use_and_mended(s3_store: Store, folder: FolderOf) -> None:
    source = folder(a="one", b="two")
    artifact = s3_store.publish("model", PRINT, source, summary={}, about={})
    s3_store.backend.write(f"{artifact.path}/{s3_store.manifest(artifact).folder}/a", b"onE")
    assert s3_store.quarantine(artifact, "x") is not None
    assert s3_store.find("model", PRINT) is None
    assert s3_store.publish("model", PRINT, source, summary={}, about={}) == artifact
    assert s3_store.verify(artifact) == []
    assert {item.sort for item in s3_store.garbage(-60)} == {"artifact", "quarantined"}


@pytest.mark.parametrize("size", [0, 1, 200 * 10**6, 300 * 10**9])
def test_a_file_is_never_cut_into_more_parts_than_s3_takes(size: int) -> None:
    assert size / part_bytes(size) <= 10_000
    assert part_bytes(size) >= 32 * MIB
