from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mirage_core.errors import ArtifactMissing
from mirage_core.store import Store, fingerprint
from mirage_core.store import publish as publish_module
from mirage_core.store.backends.fsspec import FsspecBackend
from mirage_core.types import Artifact
from tests.servers.swift import SwiftServer

pytestmark = pytest.mark.xdist_group("s3")  # one server for all

FolderOf = Callable[..., Path]
WRITERS = 6


@pytest.fixture(params=["local", "remote", "racy", "s3"])
def shared(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Store]:
    """Opens one store again and again, each with a cache of its own; ``racy``: it cannot create conditionally."""
    if request.param == "s3":
        server: SwiftServer = request.getfixturevalue("s3_server")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        root = f"{server.bucket()}/prefix"
    else:
        root = str(tmp_path / "store") if request.param == "local" else f"memory://many-{tmp_path.name}/prefix"
    if request.param == "racy":
        monkeypatch.setattr(FsspecBackend, "create", overwriting)
    monkeypatch.setattr(publish_module, "SETTLE_S", 1.5)  # a busy machine must not take that long for one call
    return lambda name: Store.open(root, cache=tmp_path / "caches" / name)


def overwriting(backend: FsspecBackend, key: str, data: bytes) -> bool:
    """A conditional create that looks first and writes later, as some servers' do."""
    if backend.system.exists(f"{backend.base}/{key}"):
        return False
    threading.Event().wait(0.02)
    backend.write(key, data)
    return True


def test_many_writers_of_different_results_end_with_one_that_is_good_at_every_moment(
    shared: Callable[[str], Store], folder: FolderOf
) -> None:
    identified = fingerprint("stage", 1, {}, {})
    published, seen = meet(shared, identified, [folder(a=f"{n}", b=f"{n}" * 5000) for n in range(WRITERS)])
    store = shared("after")
    final = store.find("model", identified)
    assert final is not None
    assert store.verify(final) == []
    assert len(published) == WRITERS
    if not store.url.startswith("s3://"):  # there it hangs on the clock of a busy machine who replaces whom
        assert {artifact.digest for artifact in published} == {final.digest}
        assert seen in ([], [final.digest])


def meet(shared: Callable[[str], Store], identified: str, folders: list[Path]) -> tuple[list[Artifact], list[str]]:
    """What writers that start together got, and the digests a reader saw that polled all the time, in order."""
    start, stop = threading.Barrier(len(folders) + 1), threading.Event()
    published: list[Artifact] = []
    seen: list[str] = []
    odd: list[BaseException] = []

    def write(number: int) -> None:
        store = shared(f"writer-{number}")
        start.wait()
        published.append(store.publish("model", identified, folders[number], summary={}, about={}))

    def read() -> None:
        store = shared("reader")
        start.wait()
        while not stop.is_set():
            artifact = store.find("model", identified)
            assert artifact is not None or not seen, "what was there has gone"
            if artifact is not None and seen[-1:] != [artifact.digest]:
                seen.append(artifact.digest)
            with suppress(ArtifactMissing):  # absent, or replaced since it was found
                if artifact is not None:
                    content = {path.name: path.read_text() for path in store.fetch(artifact).iterdir()}
                    assert content["b"] == content["a"] * 5000

    threads = [threading.Thread(target=noting, args=(odd, write, n)) for n in range(len(folders))]
    reader = threading.Thread(target=noting, args=(odd, read))
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    reader.join()
    assert odd == []
    return published, seen


def noting(odd: list[BaseException], work: Callable[..., None], *arguments: Any) -> None:
    try:
        work(*arguments)
    except BaseException as error:
        odd.append(error)


def test_writers_of_the_same_result_need_not_wait_for_each_other(
    shared: Callable[[str], Store], folder: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_module, "_wait_for_turn", lambda *_: pytest.fail("waited"))
    identified = fingerprint("stage", 1, {}, {})
    published, seen = meet(shared, identified, [folder(a="1", b="1" * 5000) for _ in range(3)])
    assert len({artifact.digest for artifact in published} | set(seen)) == 1
    with pytest.raises(ArtifactMissing):
        shared("x").get("nothing")
