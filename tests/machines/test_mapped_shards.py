"""Shards as mapped task runs of a real Prefect server, on threads and on a local Dask cluster of two workers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import dask
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.context import FlowRunContext

from mirage_core.config import RuntimeSettings
from mirage_core.errors import InputError, TrainingProcessDied
from mirage_core.pipeline.registry import STAGES
from mirage_core.pipeline.shards import SHARD, Shard
from mirage_core.types import Artifact
from tasks import shards as tasks_shards
from tests.machines.small_world import CUT, World, recipe, refuses
from tests.pipeline.jobs_here import jobs_here

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.xdist_group("prefect")]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.stages.BACKOFF", [0, 0, 0])


def run_stages(world: World, names: Sequence[str], *more: str) -> tuple[dict[str, Artifact], list[tuple[str, str]]]:
    """Run stages as tasks of one flow; their artifacts, and the flow's task runs (name, state) by name."""
    from flows.steps import run_task

    noted: list[UUID] = []

    @flow(name="run-stages", persist_result=False)
    def walk_them() -> None:
        context = FlowRunContext.get()
        assert context is not None and context.flow_run is not None
        noted.append(context.flow_run.id)
        for name in names:
            stage = STAGES[name]
            inputs = {key: world.inputs[key] for key in stage.inputs or ()}
            params = {"method": "stage-2"} if stage.params else {}
            artifact, _ = run_task(name, params, recipe(*more), world.store.url, inputs)
            world.inputs[name.replace("-", "_")] = artifact
            artifacts[name] = artifact

    artifacts: dict[str, Artifact] = {}
    try:
        walk_them()
    finally:
        task_states = settled(noted)
    return artifacts, task_states


def settled(flow_runs: list[UUID]) -> list[tuple[str, str]]:
    """The task runs with their states, once all have ended: the server learns of them by events, a little later."""
    of_runs = FlowRunFilter(id=FlowRunFilterId(any_=flow_runs))
    deadline = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while True:
            runs = client.read_task_runs(flow_run_filter=of_runs)
            ended = all(run.state is not None and run.state.is_final() for run in runs)
            if ended or time.monotonic() > deadline:
                return sorted((run.name, str(run.state_name)) for run in runs)
            time.sleep(0.2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> dict[str, Artifact]:
    """What one process gives."""
    with jobs_here():
        return World.create(tmp_path_factory.mktemp("one"), model_folder).all(refuses)


@pytest.fixture
def forked_dask() -> Iterator[None]:
    """Dask's workers are forked from the tests' server, which has imported all that they need."""
    import distributed  # noqa: F401 -- its own defaults come first: on leaving, what is set is taken out again

    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


@pytest.mark.usefixtures("forked_dask")
@pytest.mark.parametrize("names", [CUT[:1], pytest.param(CUT, marks=pytest.mark.e2e)], ids=["one-stage", "all"])
def test_a_local_cluster_of_two_dask_workers_gives_the_artifacts_of_one_process(
    world: World, undisturbed: dict[str, Artifact], names: tuple[str, ...]
) -> None:
    artifacts, task_states = run_stages(world, names, "runtime.shards=2", "runtime.task_runner=dask")

    assert artifacts == {name: undisturbed[name] for name in names}
    stages = [name if name != "evaluation" else "evaluation/stage-2" for name in names]
    runs = [name for stage in stages for name in (stage, f"{stage} 1 of 2", f"{stage} 2 of 2")]
    assert task_states == [(name, "Completed") for name in sorted(runs)]
    assert world.store.list(SHARD) == []


@pytest.mark.e2e
@pytest.mark.usefixtures("forked_dask")
def test_a_dask_cluster_that_runs_already_is_used_and_left_running(
    world: World, undisturbed: dict[str, Artifact]
) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster:
        address = f"runtime.dask_address={cluster.scheduler_address}"
        artifacts, task_states = run_stages(world, CUT[:2], "runtime.shards=3", "runtime.task_runner=dask", address)
        assert len(cluster.scheduler_info["workers"]) == 2

    assert artifacts == {name: undisturbed[name] for name in CUT[:2]}
    assert len(task_states) == 2 * (1 + 3) and {state for _, state in task_states} == {"Completed"}


def test_threads_give_the_artifacts_of_one_process(world: World, undisturbed: dict[str, Artifact]) -> None:
    artifacts, task_states = run_stages(world, CUT[:2], "runtime.shards=3")

    assert artifacts == {name: undisturbed[name] for name in CUT[:2]}
    assert len(task_states) == 2 * (1 + 3) and {state for _, state in task_states} == {"Completed"}


def test_a_single_process_has_no_shard_runs(world: World) -> None:
    assert run_stages(world, CUT[:1])[1] == [("auxiliary-images", "Completed")]


def test_a_shard_that_fails_for_a_moment_is_tried_again_alone(
    world: World, undisturbed: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = failing(monkeypatch, TrainingProcessDied("killed"))
    artifacts, task_states = run_stages(world, CUT[:1], "runtime.shards=3")

    assert artifacts["auxiliary-images"] == undisturbed["auxiliary-images"]
    assert sorted(tried) == [0, 1, 1, 2]
    assert {state for _, state in task_states} == {"Completed"}, "the stage itself was not tried again"


def test_a_shard_that_fails_for_good_fails_the_stage_and_the_next_run_makes_only_that_one(
    world: World, undisturbed: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = failing(monkeypatch, InputError("wrong"))
    with pytest.raises(InputError, match="wrong"):
        run_stages(world, CUT[:1], "runtime.shards=3")
    assert sorted(tried) == [0, 1, 2]
    artifacts, task_states = run_stages(world, CUT[:1], "runtime.shards=3")

    assert artifacts["auxiliary-images"] == undisturbed["auxiliary-images"]
    assert task_states == [
        ("auxiliary-images", "Completed"),
        ("auxiliary-images 1 of 3", "Cached"),
        ("auxiliary-images 2 of 3", "Completed"),
        ("auxiliary-images 3 of 3", "Cached"),
    ]


def test_the_cluster_is_the_one_the_settings_name() -> None:
    local = tasks_shards.task_runner(RuntimeSettings(task_runner="dask"), 3)
    assert (local.cluster_kwargs["n_workers"], local.cluster_kwargs["host"], local.address) == (3, "127.0.0.1", None)
    other = RuntimeSettings(task_runner="dask", dask_address="tcp://scheduler:8786")
    assert tasks_shards.task_runner(other, 3).address == "tcp://scheduler:8786"


def test_a_lost_dask_worker_is_a_transient_fault() -> None:
    from distributed import KilledWorker

    class Lost:
        def result(self) -> None:
            raise KilledWorker("shard", SimpleNamespace(address="tcp://10.0.0.7:4000"), 3)

    with pytest.raises(TrainingProcessDied, match=r"the Dask worker of evaluation 1 of 2 was lost.*are kept"):
        tasks_shards._result(Lost(), "evaluation 1 of 2")  # type: ignore[arg-type]


def failing(monkeypatch: pytest.MonkeyPatch, fault: Exception) -> list[int]:
    """Let the second shard fail once; returns the list of the shares that were tried."""
    tried: list[int] = []
    real = tasks_shards.run_shard

    def run_shard(shard: Shard, *rest: Any) -> Any:
        tried.append(shard.spec.index)
        if shard.spec.index == 1 and tried.count(1) == 1:
            raise fault
        return real(shard, *rest)

    monkeypatch.setattr(tasks_shards, "run_shard", run_shard)
    return tried
