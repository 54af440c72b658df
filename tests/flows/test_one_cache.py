"""The store alone decides what is cached: Prefect keeps no result, reads none, and shows a finished stage as Cached."""

from __future__ import annotations

import base64
import importlib
import json
import pickle
import pkgutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow, Task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.filesystems import LocalFileSystem
from prefect.results import ResultStore
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, PREFECT_RESULTS_PERSIST_BY_DEFAULT, temporary_settings

from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.run_record import RunRecord, newest_record
from mirage_core.pipeline.stage import stage_fingerprint
from mirage_core.recipes import load
from tasks.paths import open_store
from tests.flows.fake_pipeline import FakePipeline
from tests.flows.traces import files
from tests.servers.swift import SwiftServer

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.xdist_group("prefect")]

OVERRIDES = ["evaluation.methods=[zero-shot]"]
PICKLE = {"type": "pickle", "picklelib": "cloudpickle", "picklelib_version": None}


class TouchWhenUnpickled:
    """Leave a file where this is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.witness,)


def result_record(witness: Path) -> bytes:
    """A result record in Prefect's form that leaves ``witness`` behind when it is read."""
    text = base64.encodebytes(pickle.dumps(TouchWhenUnpickled(witness))).decode()
    return json.dumps({"metadata": {"serializer": PICKLE}, "result": text}).encode()


def run() -> RunRecord:
    """Run the shortest pipeline of the micro recipe; its record."""
    from flows.full_pipeline import mirage

    mirage(recipe="micro", overrides=OVERRIDES)
    return newest_record(open_store())


def states(record: RunRecord) -> dict[str, str]:
    return {stage.name: stage.state for stage in record.stages}


def states_on_server(flow_run: str, expected: int) -> list[str]:
    """The state names of a flow run's task runs, once all have ended: the server learns of them a little later."""
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run)]))
    deadline = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while True:
            runs = client.read_task_runs(flow_run_filter=of_run)
            ended = [str(run.state_name) for run in runs if run.state is not None and run.state.is_final()]
            if len(ended) >= expected or time.monotonic() > deadline:
                return ended
            time.sleep(0.2)


@pytest.fixture
def result_folder(tmp_path: Path) -> Iterator[Path]:
    """Prefect's result storage, empty, in a Prefect that persists results wherever nobody says otherwise."""
    folder = tmp_path / "prefect-results"
    folder.mkdir()
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: folder, PREFECT_RESULTS_PERSIST_BY_DEFAULT: True}):
        yield folder


@pytest.fixture
def result_store_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that would read from a result storage, or write to it."""
    calls: list[str] = []
    for name in ("exists", "aexists", "_read", "_aread", "persist_result_record", "apersist_result_record"):
        real = getattr(ResultStore, name)

        def noted(self: ResultStore, *args: Any, name: str = name, real: Any = real, **rest: Any) -> Any:
            calls.append(name)
            return real(self, *args, **rest)

        monkeypatch.setattr(ResultStore, name, noted)
    return calls


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, fake_pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch) -> str:
    """The root of an empty store, in MIRAGE_STORE."""
    if request.param == "s3":
        server: SwiftServer = request.getfixturevalue("s3_server")
        server.use(monkeypatch)
        monkeypatch.setenv("MIRAGE_STORE", f"{server.bucket()}/prefix")
    return open_store().url


def test_finished_stages_are_cached_and_no_result_is_kept_or_read(
    store: str, fake_pipeline: FakePipeline, result_folder: Path, result_store_calls: list[str]
) -> None:
    first = run()
    fake_pipeline.ran.clear()
    second = run()

    assert set(states(first).values()) == {"Completed"}
    assert set(states(second).values()) == {"Cached"} and not fake_pipeline.ran
    assert states_on_server(str(second.flow_run), len(second.stages)) == ["Cached"] * len(second.stages)
    assert not files(result_folder)
    assert not open_store().backend.sizes("results")
    assert not result_store_calls


def test_a_pickle_planted_where_results_used_to_be_is_not_read(
    store: str, fake_pipeline: FakePipeline, tmp_path: Path, result_folder: Path
) -> None:
    settings, stage = load("micro", OVERRIDES), get_stage("problems")
    key = f"mirage/problems/v{stage.version}/{stage_fingerprint(stage, settings, {})}"
    record = result_record(tmp_path / "executed")
    (result_folder / key).parent.mkdir(parents=True)
    (result_folder / key).write_bytes(record)
    open_store().backend.write(f"results/{key}", record)

    first, second = run(), run()

    assert (states(first)["problems"], states(second)["problems"]) == ("Completed", "Cached")
    assert not (tmp_path / "executed").exists()
    assert files(result_folder) == [result_folder / key]
    assert open_store().backend.read(f"results/{key}") == record
    ResultStore(result_storage=LocalFileSystem(basepath=str(result_folder))).read(key)
    assert (tmp_path / "executed").exists(), "the record is live: Prefect runs it where it reads it"


def test_an_old_results_folder_is_neither_listed_nor_collected(store: str, fake_pipeline: FakePipeline) -> None:
    open_store().backend.write("results/mirage/problems/v1/abc", b"{}")
    run()

    assert "results" not in {artifact.kind for artifact in open_store().list()}
    assert not [item for item in open_store().garbage(0) if item.path.startswith("results")]


def test_no_flow_or_task_persists_its_result() -> None:
    import flows
    import tasks

    modules = [
        importlib.import_module(f.name)
        for p in (flows, tasks)
        for f in pkgutil.iter_modules(p.__path__, f"{p.__name__}.")
    ]
    runnable = {value for module in modules for value in vars(module).values() if isinstance(value, Flow | Task)}

    assert {"mirage", "mirage-stage", "mirage-study", "mirage-evaluation", "shard"} <= {each.name for each in runnable}
    assert {each.persist_result for each in runnable} == {False}
    assert all(each.cache_policy == NO_CACHE for each in runnable if isinstance(each, Task))
