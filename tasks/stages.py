"""One Prefect task a stage: the same body, called under the stage's name with its key, retries and time-out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import httpx
from prefect import State, Task, get_run_logger, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import TaskRun
from prefect.states import Completed
from prefect.tasks import exponential_backoff
from prefect.utilities.timeout import timeout

from mirage_core.config import Settings
from mirage_core.errors import MirageError, StageTimeout
from mirage_core.llm_client.secrets import keys_from
from mirage_core.pipeline.recovery import DELAYS_S, JITTER
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.shards import run_stage_in_shards
from mirage_core.pipeline.stage import Stage, label
from mirage_core.types import Artifact, ProgressEvent
from tasks.cache import cache_key
from tasks.gpu import GpuSlot
from tasks.paths import open_store
from tasks.progress import StageProgress
from tasks.results import results_in
from tasks.secrets import read_key
from tasks.shards import mapped

RETRIES = len(DELAYS_S)
BACKOFF = exponential_backoff(backoff_factor=DELAYS_S[0])
# The launcher of a stage with processes of its own fires first and says more; the task's time-out is the net below it.
SPARE_S = 600


def may_help(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 (Prefect's signature)
    """Whether another attempt may succeed: the network, a killed process; never a fault of the input."""
    try:
        state.result(raise_on_failure=True)
    except MirageError as error:
        return error.transient
    except httpx.HTTPStatusError as error:
        return error.response.status_code >= 500
    except (ConnectionError, InterruptedError, TimeoutError, httpx.TransportError):
        return True
    except Exception:
        return False
    return False


@task(
    cache_policy=CacheKeyFnPolicy(cache_key_fn=cache_key),
    persist_result=True,
    result_serializer="json",
    retries=RETRIES,
    retry_delay_seconds=BACKOFF,
    retry_jitter_factor=JITTER,
    retry_condition_fn=may_help,
)
def stage_task(
    name: str, params: dict[str, Any], settings: Settings, store: str, inputs: dict[str, Artifact]
) -> Artifact | State[Artifact]:
    """Run one stage, or find its artifact in the store: then the task run says Cached."""
    stage = get_stage(name)
    log = get_run_logger()
    progress = StageProgress(label(name, params), log, curves=stage.checkpoints)
    slot = GpuSlot(log)

    def told(event: ProgressEvent) -> None:
        slot.check()
        progress(event)

    done = False
    try:
        result = run_stage_in_shards(
            stage,
            settings,
            inputs,
            open_store(store),
            told,
            params,
            fan_out=mapped(settings.runtime, store, _retries()),
            guard=guarded(stage, settings, slot),
        )
        done = True
    finally:
        progress.finish(done=done)
    if result.cached:
        return Completed(name="Cached", message=f"found in the store: {result.artifact.path}", data=result.artifact)
    return result.artifact


class _TimedOut(TimeoutError):
    """The stage's own time-out, told from one of the network."""


@contextmanager
def guarded(stage: Stage, settings: Settings, slot: GpuSlot) -> Iterator[None]:
    """What surrounds a stage's work: the GPU's slot where it runs a model, the teacher's key, the stage's time-out."""
    seconds = settings.runtime.for_stage(stage.name).timeout_s
    net = seconds + SPARE_S if stage.gpu else seconds
    with slot.held() if stage.gpu else nullcontext(), keys_from(read_key):
        try:
            with timeout(net, _TimedOut):
                yield
        except _TimedOut as error:
            raise StageTimeout(
                f"stage {stage.name} did not finish within {seconds} s and was stopped: raise runtime.timeouts."
                f"{stage.name}, or runtime.timeout_s for every stage; then run again"
            ) from error


def task_for(name: str, params: Mapping[str, Any], store: str) -> Task[..., Any]:
    """The task of one stage: its name, its retries, and where its result is kept: in the store, with its artifact.

    Waiting for the GPU must not count: it has no time-out here.
    """
    stage = get_stage(name)
    named = label(name, params)
    return stage_task.with_options(
        name=stage.name,
        task_run_name=named,
        description=stage.run.__doc__,
        result_storage=results_in(store),
        **_retries(),
    )


def _retries() -> dict[str, Any]:
    """The task options by which a stage, and each shard of one, is tried again."""
    return {
        "retries": RETRIES,
        "retry_delay_seconds": BACKOFF,
        "retry_jitter_factor": JITTER,
        "retry_condition_fn": may_help,
    }
