"""Result records that somebody has tampered with, in a whole flow, in a local store and on a real S3 server."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from mirage_core.pipeline.run_record import newest_record
from tasks.paths import open_store
from tests.flows.fake_road import FakeRoad
from tests.servers.swift import SwiftServer
from tests.tasks.test_results import PICKLE, pickled

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.xdist_group("prefect")]


def run() -> dict[str, str]:
    """Problems and the pictures of the micro recipe, each stage's state."""
    from flows.full_pipeline import mirage

    mirage(recipe="micro", overrides=["evaluation.methods=[zero-shot]"])
    return {stage.name: stage.state for stage in newest_record(open_store()).stages}


def tamper(witness: Path, *, on_top: bool) -> str:
    """Put a pickle into the record of the stage ``problems``; its name."""
    place = open_store().place
    [name] = [name for name in place.sizes("results") if "/problems/" in name]
    record = json.loads(place.read(f"results/{name}"))
    del record["own_sha256"]  # somebody who means it leaves it out, as earlier versions did
    if on_top:
        record["serializer"] = PICKLE  # Prefect takes this one, and what stands in the metadata looks right
    else:
        record["metadata"]["serializer"] = PICKLE
    record["result"] = pickled(witness)
    place.write(f"results/{name}", json.dumps(record).encode())
    return name


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, road: FakeRoad, monkeypatch: pytest.MonkeyPatch) -> str:
    """The root of an empty store, in MIRAGE_STORE."""
    if request.param == "s3":
        server: SwiftServer = request.getfixturevalue("s3_server")
        server.use(monkeypatch)
        monkeypatch.setenv("MIRAGE_STORE", f"{server.bucket()}/prefix")
    return open_store().url


@pytest.mark.parametrize(("store", "on_top"), [("local", False), ("s3", True)], indirect=["store"])
def test_a_pickle_in_a_record_is_never_loaded_and_its_stage_runs_again(
    store: str, road: FakeRoad, tmp_path: Path, on_top: bool, caplog: pytest.LogCaptureFixture
) -> None:
    run()
    road.ran.clear()
    name = tamper(tmp_path / "executed", on_top=on_top)
    artifact = open_store().list("problems")[0]
    open_store().remove(artifact)

    with caplog.at_level(logging.WARNING):
        states = run()

    assert not (tmp_path / "executed").exists()
    assert road.ran == ["problems"]
    assert (states["problems"], states["base"]) == ("Completed", "Cached")
    assert f"the cached result {name} is dropped and the stage runs again" in caplog.text
    assert "pickle" not in str(open_store().place.read(f"results/{name}")), "a good record stands there now"


def test_the_storage_alone_keeps_a_pickle_from_being_loaded(
    store: str, road: FakeRoad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the key function's look: as when the record is written between that and Prefect's reading."""
    run()
    name = tamper(tmp_path / "executed", on_top=False)
    monkeypatch.setattr("tasks.cache.drop_unless_believed", lambda *arguments: None)

    with caplog.at_level(logging.WARNING):
        states = run()

    assert not (tmp_path / "executed").exists()
    assert states["problems"] == "Cached", "from the store"
    assert f"the result record {name} is not read: it names the serializer" in caplog.text


def test_every_task_that_keeps_results_keeps_them_in_our_storage() -> None:
    """What no task persists, nobody reads: the guard stands in front of all of it."""
    import importlib
    import pkgutil

    from prefect import Flow, Task

    import flows
    import tasks
    from tasks.results import StoreResults
    from tasks.stages import stage_task, task_for

    modules = [
        importlib.import_module(f.name)
        for p in (flows, tasks)
        for f in pkgutil.iter_modules(p.__path__, f"{p.__name__}.")
    ]
    found = [value for module in modules for value in vars(module).values() if isinstance(value, Flow | Task)]
    persisting = {one.name for one in found if one.persist_result is not False and one is not stage_task}

    assert stage_task in found and len({one.name for one in found}) > 3
    assert persisting == set()
    assert isinstance(task_for("problems", {}, "/somewhere").result_storage, StoreResults)
