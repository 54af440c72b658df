from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mirage_core.errors import ArtifactDamaged, ArtifactMissing
from mirage_core.store import Store, fingerprint
from mirage_core.store import publish as publish_module
from mirage_core.types import Artifact
from tests.store.dying import DyingBackend, Killed

FolderOf = Callable[..., Path]
PRINT = fingerprint("stage", 1, {"a": 1}, {})
MOST = 60


def publish(store: Store, folder: Path) -> Artifact:
    return store.publish("model", PRINT, folder, summary={}, about={})


def good_or_absent(store: Store) -> bool:
    """Whether there is an artifact; it must be good then."""
    result = store.find("model", PRINT)
    assert result is None or store.verify(result) == []
    return result is not None


def dies_everywhere(store: Store, work: Callable[[Store], object], check: Callable[[], None], *, after: bool) -> int:
    """Do ``work`` on a backend that dies at its first call, at its second, ...; the number of deaths until it lives."""
    for at in range(1, MOST):
        dying = Store(DyingBackend(store.backend, at, after), store.cache)
        try:
            work(dying)
        except Killed:
            check()
        else:
            return at - 1
    raise AssertionError(f"more than {MOST} calls")


@pytest.mark.parametrize("after", [False, True])
def test_a_publisher_killed_at_any_call_leaves_nothing_half_and_the_next_succeeds(
    store: Store, folder: FolderOf, after: bool
) -> None:
    source = folder(a="one", **{"sub/b": "two"})
    deaths = 0
    for start in range(1, MOST):
        dying = Store(DyingBackend(store.backend, start, after), store.cache)
        try:
            publish(dying, source)
        except Killed:
            deaths += 1
            good_or_absent(store)
            again = publish(store, source)
            assert store.verify(again) == []
            store.remove(again)
        else:
            break
    assert deaths >= 8


@pytest.mark.parametrize("after", [False, True])
def test_killed_again_and_again_a_publisher_gets_through_in_the_end(
    store: Store, folder: FolderOf, after: bool
) -> None:
    source = folder(a="one", b="two", c="three")
    assert dies_everywhere(store, lambda s: publish(s, source), lambda: None, after=after) >= 6
    assert good_or_absent(store)


@pytest.mark.parametrize("after", [False, True])
def test_a_publisher_of_other_content_killed_before_does_not_matter(
    store: Store, folder: FolderOf, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_module, "SETTLE_S", 0.02)
    number = 0

    def work(dying: Store) -> None:
        nonlocal number
        number += 1
        publish(dying, folder(a=f"result {number}"))

    dies_everywhere(store, work, lambda: (good_or_absent(store), None)[1], after=after)
    assert good_or_absent(store)


@pytest.mark.parametrize("after", [False, True])
def test_a_quarantine_killed_at_any_call_leaves_the_artifact_damaged_or_out_of_use(
    store: Store, folder: FolderOf, after: bool
) -> None:
    source = folder(a="one")
    artifact = publish(store, source)
    for at in range(1, MOST):
        key = f"{artifact.path}/{store.manifest(artifact).folder}/a"
        store.backend.write(key, b"onE")
        dying = Store(DyingBackend(store.backend, at, after), store.cache)
        try:
            dying.quarantine(artifact, "x")
        except Killed:
            with pytest.raises((ArtifactDamaged, ArtifactMissing)):
                store.fetch(artifact)
            assert publish(store, source) == artifact
            assert store.verify(artifact) == []
        else:
            break
    assert at > 4


@pytest.mark.parametrize("after", [False, True])
def test_a_checkpoint_killed_at_any_call_leaves_the_one_before_and_no_half_one(
    store: Store, folder: FolderOf, after: bool
) -> None:
    store.save_checkpoint(PRINT, 10, folder(state="ten", base="the same"))
    newer = folder(state="twenty", base="the same")

    def check() -> None:
        result = store.latest_checkpoint(PRINT)
        assert result is not None
        assert (result[0], (result[1] / "state").read_text()) in [(10, "ten"), (20, "twenty")]

    deaths = dies_everywhere(store, lambda s: s.save_checkpoint(PRINT, 20, newer), check, after=after)
    assert deaths >= 8
    check()
    assert (store.latest_checkpoint(PRINT) or (0,))[0] == 20


@pytest.mark.parametrize("after", [False, True])
def test_a_collection_killed_at_any_call_leaves_nothing_half(store: Store, folder: FolderOf, after: bool) -> None:
    source = folder(a="one", b="two")
    used = store.publish("kept", PRINT, folder(k="kept"), summary={}, about={})
    store.write_json("runs/r.json", {"path": used.path})
    for at in range(1, MOST):
        publish(store, source)
        dying = Store(DyingBackend(store.backend, at, after), store.cache)
        try:
            dying.collect(dying.garbage(-10))
        except Killed:
            good_or_absent(store)
            assert store.verify(used) == []
        else:
            break
    assert at > 6
    assert store.verify(used) == []
    assert store.find("model", PRINT) is None


WRITER = """
import sys, pathlib
from mirage_core.store import Store, fingerprint
from mirage_core.store import publish as publish_module
store = Store.open(sys.argv[1])
print("ready", flush=True)
for number in range(10_000):
    store.publish("model", fingerprint("s", 1, {"n": number}, {}), pathlib.Path(sys.argv[2]), summary={}, about={})
    store.save_checkpoint("0" * 64, number, pathlib.Path(sys.argv[2]))
    print(number, flush=True)
"""


def test_a_process_killed_while_it_stores_leaves_nothing_half(tmp_path: Path, folder: FolderOf) -> None:
    """SIGKILL in the middle of copying files: what has a manifest is good, what was left can be collected."""
    source = folder(**{f"f{n}": "x" * 300_000 for n in range(8)})
    root = tmp_path / "store"
    for round_ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(root), str(source)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(2 + round_):
                writer.stdout.readline()
            os.kill(writer.pid, signal.SIGKILL)
        store = Store.open(root, cache=tmp_path / "cache")
        assert all(store.verify(artifact) == [] for artifact in store.list())
        result = store.latest_checkpoint("0" * 64)
        assert result is None or len(list(result[1].iterdir())) == 8
    number = len(store.list())
    left = [item for item in store.garbage(-10) if item.sort in ("unfinished", "files")]
    store.collect(left)
    assert len(store.list()) == number >= 6
    assert [item for item in store.garbage(-10) if item.sort in ("unfinished", "files")] == []
