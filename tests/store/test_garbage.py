from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirage_core.errors import ArtifactDamaged, ArtifactMissing
from mirage_core.store import Garbage, Store, fingerprint
from mirage_core.store.garbage import find_garbage
from mirage_core.store.manifest import MANIFEST
from mirage_core.types import Artifact

FolderOf = Callable[..., Path]
HOUR = 3600.0


def print_of(number: int) -> str:
    return fingerprint("stage", 1, {"n": number}, {})


def publish(store: Store, folder: Path, number: int = 0, inputs: tuple[Artifact, ...] = ()) -> Artifact:
    references = {f"i{n}": {"path": parent.path, "digest": parent.digest} for n, parent in enumerate(inputs)}
    return store.publish("model", print_of(number), folder, summary={}, about={"inputs": references})


def run(store: Store, name: str, *artifacts: Artifact) -> None:
    lines = [{"name": "stage", "path": artifact.path, "digest": artifact.digest} for artifact in artifacts]
    store.write_json(f"runs/{name}.json", {"id": name, "stages": lines})


def later(store: Store, keep_runs: int | None = None, hours: float = 3) -> list[Garbage]:
    """What is garbage some hours from now, with a grace of two."""
    return find_garbage(store.backend, 2 * HOUR, keep_runs=keep_runs, now=time.time() + hours * HOUR)


def paths(garbage: list[Garbage]) -> set[tuple[str, str]]:
    return {(item.sort, item.path) for item in garbage}


def test_what_runs_pointers_and_kept_artifacts_refer_to_stays_and_the_rest_goes(store: Store, folder: FolderOf) -> None:
    deep = publish(store, folder(a="0"), 0)
    middle = publish(store, folder(a="1"), 1, (deep,))
    used = publish(store, folder(a="2"), 2, (middle,))
    pointed = publish(store, folder(a="3"), 3)
    lost = publish(store, folder(a="4"), 4, (used,))
    lost_too = publish(store, folder(a="5"), 5, (lost,))
    run(store, "r1", used)
    store.point("nightly", pointed)
    garbage = later(store)
    assert paths(garbage) == {("artifact", lost.path), ("artifact", lost_too.path)}
    assert all(item.size > 0 and "refers to it" in item.why for item in garbage)
    assert store.collect(garbage) == garbage
    assert {artifact.path for artifact in store.list()} == {a.path for a in (deep, middle, used, pointed)}
    assert all(store.verify(artifact) == [] for artifact in store.list())


def test_nothing_young_goes(store: Store, folder: FolderOf) -> None:
    publish(store, folder(a="0"))
    store.save_checkpoint(print_of(7), 10, folder(a="state"))
    assert later(store, hours=1) == []
    assert store.garbage(HOUR) == []


def test_looking_changes_nothing(store: Store, folder: FolderOf) -> None:
    publish(store, folder(a="0"))
    before = store.backend.sizes("")
    assert len(later(store)) == 1
    assert store.backend.sizes("") == before


def test_a_pointers_past_and_older_runs_keep_nothing_when_only_the_newest_count(store: Store, folder: FolderOf) -> None:
    old, new, once = (publish(store, folder(a=str(n)), n) for n in range(3))
    run(store, "20260101", old)
    run(store, "20260202", new)
    store.point("nightly", once)
    store.point("nightly", new)
    assert paths(later(store)) == {("artifact", once.path)}
    assert paths(later(store, keep_runs=1)) == {("artifact", once.path), ("artifact", old.path)}
    assert later(store, keep_runs=1, hours=1) == []


def test_what_any_other_record_names_stays(store: Store, folder: FolderOf) -> None:
    artifact = publish(store, folder(a="0"))
    store.write_json("trend/night.json", {"deep": [{"evaluation": {"path": artifact.path}}]})
    assert later(store) == []


def test_a_record_that_cannot_be_read_stops_the_search(store: Store, folder: FolderOf) -> None:
    publish(store, folder(a="0"))
    store.backend.write("runs/r1.json", b'{"stages": [')
    with pytest.raises(ArtifactDamaged, match=r"runs/r1.json .* repair or remove it"):
        later(store)


def test_what_a_killed_publisher_left_goes_and_an_artifact_beside_it_stays(
    store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = publish(store, folder(a="0"))
    run(store, "r1", artifact)
    left = f"{artifact.path}/files-{'0' * 12}"
    store.backend.write(f"{left}/a", b"half")
    other = f"model/{print_of(1)[:20]}/files-{'1' * 12}"
    store.backend.write(f"{other}/deep/b", b"half of it")
    garbage = later(store)
    assert paths(garbage) == {("files", left), ("files", other)}
    assert sum(item.size for item in garbage) == 14
    assert store.collect(garbage) == garbage
    assert store.backend.sizes(left) == store.backend.sizes(other) == {}
    assert store.verify(artifact) == []


def test_temporary_files_go_when_they_are_old(local_store: Store) -> None:
    (Path(local_store.url) / ".tmp").mkdir(parents=True)
    (Path(local_store.url) / ".tmp" / "left").write_bytes(b"1234")
    (garbage,) = later(local_store)
    assert (garbage.sort, garbage.path, garbage.size) == ("unfinished", ".tmp/left", 4)
    local_store.collect([garbage])
    assert list((Path(local_store.url) / ".tmp").iterdir()) == []


def test_what_is_out_of_use_goes_after_a_while_and_its_record_after_it(store: Store, folder: FolderOf) -> None:
    artifact = publish(store, folder(a="one"))
    bad = f"{artifact.path}/{store.manifest(artifact).folder}"
    store.backend.write(f"{bad}/a", b"onE")
    record = store.quarantine(artifact, "x")
    again = publish(store, folder(a="one"))
    run(store, "r1", again)
    assert later(store, hours=1) == []
    assert paths(later(store)) == {("quarantined", bad)}
    store.collect(later(store))
    garbage = later(store)
    assert {item.sort for item in garbage} == {"record"} and record in {item.path for item in garbage}
    store.collect(garbage)
    assert store.backend.sizes("quarantine") == {}
    assert store.verify(again) == []


def test_checkpoints_go_when_their_run_is_published_or_does_not_go_on(store: Store, folder: FolderOf) -> None:
    store.save_checkpoint(print_of(1), 10, folder(a="s"))
    store.save_checkpoint(print_of(2), 10, folder(a="s"))
    store.backend.write(f"checkpoints/{print_of(2)[:20]}/00000020/files-x/a", b"half")
    run(store, "r1", publish(store, folder(a="m"), 1))
    assert paths(later(store, hours=1)) == {("checkpoint", f"checkpoints/{print_of(1)[:20]}")}
    garbage = later(store)
    assert paths(garbage) == {("checkpoint", f"checkpoints/{print_of(n)[:20]}") for n in (1, 2)}
    store.collect(garbage)
    assert store.backend.sizes("checkpoints") == {}


def test_a_step_that_was_never_completed_goes_though_its_run_goes_on(
    store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ = print_of(2)[:20]
    store.backend.write(f"checkpoints/{run_}/00000010/files-x/a", b"half")
    then = time.time() + 3 * HOUR
    real = type(store.backend).entries

    def aged(self: object, prefix: str) -> dict[str, object]:
        garbage = real(self, prefix)  # type: ignore[arg-type]
        return {n: e if "00000010" in n else type(e)(size=e.size, modified=then) for n, e in garbage.items()}

    store.save_checkpoint(print_of(2), 20, folder(a="s"))
    monkeypatch.setattr(type(store.backend), "entries", aged)
    assert paths(later(store)) == {("checkpoint", f"checkpoints/{run_}/00000010")}


def test_what_came_into_use_since_it_was_found_stays(store: Store, folder: FolderOf) -> None:
    """A folder that a publisher completed, an artifact that was made anew."""
    path = f"model/{print_of(1)[:20]}"
    source = folder(a="one")
    first = publish(store, source, 1)
    manifest = store.backend.read(f"{path}/{MANIFEST}")
    store.backend.remove(f"{path}/{MANIFEST}")
    files = later(store)
    assert {item.sort for item in files} == {"files"}
    store.backend.write(f"{path}/{MANIFEST}", manifest)
    assert store.collect(files) == []
    assert store.verify(first) == []
    artifact = later(store)
    assert {item.sort for item in artifact} == {"artifact"}
    assert store.collect(artifact) == artifact
    assert store.collect(artifact) == []


@pytest.mark.parametrize("sort", ["artifact", "files"])
def test_who_publishes_again_while_it_goes_is_not_hurt(
    store: Store, folder: FolderOf, monkeypatch: pytest.MonkeyPatch, sort: str
) -> None:
    """The same content, put after the manifest went and before the files do."""
    source = folder(a="one")
    first = publish(store, source)
    if sort == "files":
        store.backend.remove(f"{first.path}/{MANIFEST}")
    (garbage,) = later(store)
    assert garbage.sort == sort
    backend, again = type(store.backend), []
    real = backend.remove

    def remove(self: object, key: str) -> None:
        if "/files-" in key and not again:
            again.append(publish(store, source))
        real(self, key)  # type: ignore[arg-type]

    monkeypatch.setattr(backend, "remove", remove)
    assert store.collect([garbage]) == [garbage]
    assert again == [first]
    assert store.find("model", print_of(0)) == first
    assert store.verify(first) == []


def test_files_of_other_things_in_the_same_root_are_left_alone(store: Store) -> None:
    for name in ("answers/model/x.json", "results/mirage/stage/v1/abc", "notes.txt", "model/readme.md", "a/b/c/d"):
        store.backend.write(name, b"{}")
    assert later(store) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_reachable_goes_and_nothing_else_stays_in_any_graph(tmp_path: Path, data: st.DataObject) -> None:
    store = Store.open(f"memory://gc-{uuid.uuid4().hex}", cache=tmp_path / "cache")
    count = data.draw(st.integers(1, 8))
    source = tmp_path / uuid.uuid4().hex
    source.mkdir()
    artifacts: list[Artifact] = []
    inputs: list[set[int]] = []
    for number in range(count):
        chosen = data.draw(st.sets(st.integers(0, number - 1))) if number else set()
        (source / "a").write_text(str(number))
        artifacts.append(publish(store, source, number, tuple(artifacts[n] for n in sorted(chosen))))
        inputs.append(chosen)
    roots = data.draw(st.sets(st.integers(0, count - 1)))
    for root in roots:
        if data.draw(st.booleans()):
            run(store, f"r{root}", artifacts[root])
        else:
            store.point(f"p{root}", artifacts[root])
    reachable, waiting = set(), list(roots)
    while waiting:
        number = waiting.pop()
        if number not in reachable:
            reachable.add(number)
            waiting += inputs[number]
    store.collect(later(store))
    assert {artifact.path for artifact in store.list()} == {artifacts[number].path for number in reachable}
    assert all(store.verify(artifacts[number]) == [] for number in reachable)
    store.backend.remove("")


@pytest.mark.parametrize("grace", [0.0, HOUR])
def test_collecting_while_others_publish_loses_nothing(store: Store, folder: FolderOf, grace: float) -> None:
    """With a grace, nothing at all; without one, nothing that a run refers to, and nothing is ever half there."""
    used = [publish(store, folder(a=f"kept {n}"), n) for n in range(3)]
    run(store, "r0", *used)
    stop, odd = threading.Event(), []

    def work(writer: int) -> None:
        for number in range(100 * (writer + 1), 100 * (writer + 1) + 6):
            artifact = stubborn(store, folder(a=f"{number}", b="x" * 100), number, used[0], may_go=not grace)
            run(store, f"w{number}", artifact)

    def collect() -> None:
        while not stop.is_set():
            store.collect(store.garbage(grace))

    collector = threading.Thread(target=noting, args=(odd, collect))
    writers = [threading.Thread(target=noting, args=(odd, work, n)) for n in range(3)]
    for thread in (collector, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    collector.join()
    assert odd == []
    assert all(store.verify(artifact) == [] for artifact in (*used, *store.list()))
    assert len(store.list()) == 21 if grace else len(store.list()) >= 3


def stubborn(store: Store, source: Path, number: int, parent: Artifact, *, may_go: bool) -> Artifact:
    """Publish until it can be read: what no run refers to yet may have gone, but is never damaged."""
    for _ in range(50):
        artifact = publish(store, source, number, (parent,))
        try:
            store.fetch(artifact)
            return artifact
        except ArtifactMissing:
            assert may_go
    raise AssertionError(f"number {number} went 50 times")


def noting(odd: list[BaseException], work: Callable[..., None], *arguments: object) -> None:
    try:
        work(*arguments)
    except BaseException as error:
        odd.append(error)
