"""One look is not enough to call something damaged: a line may garble what the store holds well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mirage_core.store import Store, fingerprint

FolderOf = Callable[..., Path]
RUN = fingerprint("relaxation", 1, {}, {})


def garble_once(monkeypatch: pytest.MonkeyPatch, store: Store, operation: str) -> list[str]:
    """Let the next ``read`` or ``get`` of the store's backend come with one bit wrong; the keys it was done to."""
    kind, garbled = type(store.backend), []
    real = getattr(kind, operation)

    def read(backend: Any, key: str) -> bytes:
        data = bytes(real(backend, key))
        if garbled:
            return data
        garbled.append(key)
        return data[:-10] + bytes([data[-10] ^ 1]) + data[-9:]

    def get(backend: Any, key: str, target: Path, *rest: Any) -> None:
        real(backend, key, target, *rest)
        if not garbled:
            garbled.append(key)
            target.write_bytes(bytes([target.read_bytes()[0] ^ 1]) + target.read_bytes()[1:])

    monkeypatch.setattr(kind, operation, read if operation == "read" else get)
    return garbled


def test_a_manifest_that_was_garbled_on_its_way_is_read_again(
    store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    identified = fingerprint("x", 1, {}, {})
    artifact = store.publish("model", identified, folder(weights="1"), summary={}, about={})
    garbled = garble_once(monkeypatch, store, "read")
    assert store.find("model", identified) == artifact
    assert garbled == [f"{artifact.path}/manifest.json"]


@pytest.mark.parametrize("operation", ["read", "get"])
def test_a_checkpoint_that_was_garbled_on_its_way_is_neither_passed_over_nor_removed(
    remote_store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    remote_store.save_checkpoint(RUN, 50, folder(state="older"))
    remote_store.save_checkpoint(RUN, 100, folder(state="newer"))
    garbled = garble_once(monkeypatch, remote_store, operation)
    for _ in range(2):
        step, path = remote_store.latest_checkpoint(RUN) or (0, Path())
        assert (step, (path / "state").read_text()) == (100, "newer")
    assert len(garbled) == 1


@pytest.fixture
def remote_store(tmp_path: Path) -> Store:
    """An empty store that is only reached through fsspec."""
    return Store.open(f"memory://misread-{tmp_path.name}/prefix", cache=tmp_path / "cache")
