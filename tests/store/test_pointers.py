from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mirage_core.errors import ArtifactDamaged, ArtifactMissing, InputError
from mirage_core.store import Store, fingerprint
from mirage_core.types import Artifact

FolderOf = Callable[..., Path]


def publish(store: Store, folder: Path, number: int = 0) -> Artifact:
    return store.publish("model", fingerprint("s", 1, {"n": number}, {}), folder, summary={"n": number}, about={})


def test_a_pointer_stands_for_an_artifact_until_it_is_moved_and_keeps_its_history(
    store: Store, folder: FolderOf
) -> None:
    first, second = publish(store, folder(a="1"), 1), publish(store, folder(a="2"), 2)
    set_ = store.point("nightly", first, {"run": "x"})
    assert (set_.artifact, set_.about, set_.history) == (first, {"run": "x"}, ())
    assert store.pointer("nightly") == set_
    moved = store.point("nightly", second)
    assert store.pointer("nightly") == moved
    assert moved.artifact == second
    assert [(past.artifact, past.since, past.about) for past in moved.history] == [(first, set_.since, {"run": "x"})]
    assert moved.since > set_.since
    assert store.pointers() == ["nightly"]


def test_pointing_again_at_the_same_changes_nothing(store: Store, folder: FolderOf) -> None:
    artifact = publish(store, folder(a="1"))
    assert store.point("nightly", artifact, {"run": 1}) == store.point("nightly", artifact, {"run": 1})
    assert len(store.point("nightly", artifact, {"run": 2}).history) == 1


def test_an_unknown_pointer_is_missing_and_tells_those_there_are(store: Store, folder: FolderOf) -> None:
    with pytest.raises(ArtifactMissing, match=r"no pointer 'nightly' in .*: there is none yet.*mirage store point"):
        store.pointer("nightly")
    store.point("best", publish(store, folder(a="1")))
    with pytest.raises(ArtifactMissing, match="there is best"):
        store.pointer("nightly")


def test_a_pointer_to_nothing_is_refused(store: Store, folder: FolderOf) -> None:
    artifact = publish(store, folder(a="1"))
    store.remove(artifact)
    with pytest.raises(ArtifactMissing):
        store.point("nightly", artifact)
    assert store.pointers() == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 101])
def test_an_odd_pointer_name_is_refused(store: Store, folder: FolderOf, name: str) -> None:
    artifact = publish(store, folder(a="1"))
    with pytest.raises(InputError, match="pointer name"):
        store.point(name, artifact)
    with pytest.raises(InputError, match="pointer name"):
        store.pointer(name)


def test_a_broken_pointer_is_named(store: Store) -> None:
    store.write_json("pointers/nightly.json", {"artifact": 1})
    with pytest.raises(ArtifactDamaged, match=r"pointers/nightly.json .* is not a pointer"):
        store.pointer("nightly")


def test_artifacts_of_a_kind_called_like_the_stores_own_folders_are_refused(store: Store, folder: FolderOf) -> None:
    for kind in ("pointers", "quarantine", "checkpoints", "runs"):
        with pytest.raises(InputError):
            store.publish(kind, fingerprint("s", 1, {}, {}), folder(a="1"), summary={}, about={})
