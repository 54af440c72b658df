"""Shards as mapped Prefect tasks: on threads of the flow's process, or on Dask workers on any machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from prefect import State, Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from mirage_core.config import RuntimeSettings
from mirage_core.distributed.launch import cancel_jobs_on_interrupt
from mirage_core.errors import SettingsError, TrainingProcessDied
from mirage_core.pipeline.shards import FanOut, Shard, run_shard
from mirage_core.types import Artifact, Progress, ProgressEvent
from tasks.paths import open_store
from tasks.progress import StageProgress


# The store alone decides which shards are cached, and drops them after the merge.
@task(name="shard", task_run_name="{named}", cache_policy=NO_CACHE, persist_result=False)
def shard_task(named: str, shard: Shard, store: str) -> Artifact | State[Artifact]:
    """Run one shard of a stage, or find it in the store: then the task run is Cached."""
    progress = StageProgress(named, get_run_logger())
    done = False
    try:
        result = run_shard(shard, open_store(store), progress)
        done = True
    finally:
        progress.finish(done=done)
    if result.cached:
        return Completed(name="Cached", message=f"found in the store: {result.artifact.path}", data=result.artifact)
    return result.artifact


def map_shards(runtime: RuntimeSettings, store: str, retries: Mapping[str, Any]) -> FanOut:
    """Return a fan-out to mapped task runs; ``retries`` are the task options by which each shard is retried alone.

    When a shard fails for good the others still finish: the next attempt finds them in the store.
    """

    def fan_out(shards: Sequence[Shard], progress: Progress) -> list[Artifact]:
        labels = [shard.label for shard in shards]
        progress(ProgressEvent(stage=shards[0].stage, message=f"{len(shards)} shards on {runtime.task_runner}"))
        with task_runner(runtime, len(shards)) as runner:
            options = cast(Task[..., Any], shard_task.with_options(**retries))
            with cancel_jobs_on_interrupt():  # leaving the runner waits for its threads
                futures = runner.map(options, {"named": labels, "shard": list(shards), "store": store})
                wait(list(futures))
            return [_result(future, name) for future, name in zip(futures, labels, strict=True)]

    return fan_out


def task_runner(runtime: RuntimeSettings, shards: int) -> TaskRunner[Any]:
    """Return the task runner of the settings; a local Dask cluster ends with the shards."""
    if runtime.task_runner == "threads":
        return ThreadPoolTaskRunner(max_workers=shards)
    try:
        from prefect_dask import DaskTaskRunner
    except ImportError as error:
        raise SettingsError(
            "runtime.task_runner is dask, but prefect-dask is not installed: pip install '.[machines]', or threads"
        ) from error
    if runtime.dask_address is not None:
        return DaskTaskRunner(address=runtime.dask_address)
    # Processes (Dask spawns them), so that drawing runs in parallel; no dashboard: its port would be unknown.
    local = {"n_workers": shards, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    return DaskTaskRunner(cluster_class="distributed.LocalCluster", cluster_kwargs={**local, "host": "127.0.0.1"})


def _result(future: PrefectFuture[Any], label: str) -> Artifact:
    """Return the shard's artifact; Dask's error for a lost worker becomes a transient error."""
    try:
        return cast(Artifact, future.result())
    except Exception as error:
        if type(error).__module__.startswith("distributed"):
            raise TrainingProcessDied(
                f"the Dask worker of {label} was lost ({type(error).__name__}: {error}); finished shards are kept"
            ) from error
        raise
