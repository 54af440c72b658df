"""One Prefect task per stage: the same body under the stage's name, with retries and a time-out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import httpx
from prefect import State, Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.tasks import exponential_backoff
from prefect.utilities.timeout import timeout

from mirage_core.config import Settings
from mirage_core.errors import MirageError, StageTimeout
from mirage_core.llm_client.secrets import use_key_reader
from mirage_core.pipeline.recovery import DELAYS_S, JITTER
from mirage_core.pipeline.registry import get_stage
from mirage_core.pipeline.shards import in_shards
from mirage_core.pipeline.stage import Stage, label, run_stage
from mirage_core.types import Artifact, ProgressEvent
from tasks.gpu import SharedGpuSlot
from tasks.paths import open_store
from tasks.progress import StageProgress
from tasks.secrets import read_key
from tasks.shards import map_shards

RETRIES = len(DELAYS_S)
BACKOFF = exponential_backoff(backoff_factor=DELAYS_S[0])
TIMEOUT_MARGIN_S = 600
"""A stage with its own processes is timed out by their launcher first; the task's time-out is a fallback."""


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 (Prefect's signature)
    """Whether another attempt may succeed: after a network error or a killed process, never after an input error."""
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


# The store alone decides what is cached: Prefect persists no result.
@task(cache_policy=NO_CACHE, persist_result=False)
def stage_task(
    name: str, params: dict[str, Any], settings: Settings, store: str, inputs: dict[str, Artifact]
) -> Artifact | State[Artifact]:
    """Run one stage, or find its artifact in the store: then the task run is Cached."""
    stage = get_stage(name)
    log = get_run_logger()
    progress = StageProgress(label(name, params), log, curves=stage.checkpoints)
    slot = SharedGpuSlot(str(flow_run.id), log)

    def report(event: ProgressEvent) -> None:
        slot.check()
        progress(event)

    done = False
    try:
        result = run_stage(
            in_shards(stage, settings, map_shards(settings.runtime, store, _retry_options())),
            settings,
            inputs,
            open_store(store),
            report,
            params,
            guard=stage_guard(stage, settings, slot),
        )
        done = True
    finally:
        progress.finish(done=done)
    if result.cached:
        return Completed(name="Cached", message=f"found in the store: {result.artifact.path}", data=result.artifact)
    return result.artifact


class _TimedOut(TimeoutError):
    """The stage's own time-out, distinct from one of the network."""


@contextmanager
def stage_guard(stage: Stage, settings: Settings, slot: SharedGpuSlot) -> Iterator[None]:
    """Surround a stage's work with the GPU's slot (where it runs a model), the teacher's key, and the time-out."""
    seconds = settings.runtime.for_stage(stage.name).timeout_s
    limit = seconds + TIMEOUT_MARGIN_S if stage.gpu else seconds
    with slot.acquired() if stage.gpu else nullcontext(), use_key_reader(read_key):
        try:
            with timeout(limit, _TimedOut):
                yield
        except _TimedOut as error:
            raise StageTimeout(
                f"stage {stage.name} did not finish within {seconds} s and was stopped: raise runtime.timeouts."
                f"{stage.name}, or runtime.timeout_s for every stage; then run again"
            ) from error


def task_for(name: str, params: Mapping[str, Any]) -> Task[..., Any]:
    """Return the task of one stage, with the stage's name and retries.

    It has no time-out of its own: waiting for the GPU must not count.
    """
    stage = get_stage(name)
    return stage_task.with_options(
        name=stage.name, task_run_name=label(name, params), description=stage.run.__doc__, **_retry_options()
    )


def _retry_options() -> dict[str, Any]:
    """Return the task options by which a stage, and each of its shards, is retried."""
    return {
        "retries": RETRIES,
        "retry_delay_seconds": BACKOFF,
        "retry_jitter_factor": JITTER,
        "retry_condition_fn": is_transient,
    }
