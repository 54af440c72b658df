"""One Prefect task a stage: the same body, called under the stage's name with its key, retries and time-out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import State, Task, get_run_logger, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import TaskRun
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from mirage_core.config import Settings
from mirage_core.errors import MirageError
from mirage_core.stages.registry import get_stage
from mirage_core.stages.stage import label, run_stage
from mirage_core.types import Artifact
from tasks.cache import cache_key
from tasks.places import open_store
from tasks.progress import StageProgress

# Lets a limit keep trainings apart (prefect concurrency-limit create training 1). A tag costs its task most of a
# second, since Prefect asks the server for a slot: stages that do not train go without.
TRAINING = "training"
RETRIES = 3
BACKOFF = exponential_backoff(backoff_factor=5)
JITTER = 0.5
# The stage's own time-outs fire first and say more; the task's is the net below them.
SPARE_S = 600


def may_help(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 (Prefect's signature)
    """Whether another attempt may succeed: the network, a killed process; never a fault of the input."""
    try:
        state.result(raise_on_failure=True)
    except MirageError as problem:
        return problem.transient
    except (ConnectionError, InterruptedError):
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
    progress = StageProgress(label(name, params), get_run_logger(), curves=stage.checkpoints)
    done = False
    try:
        result = run_stage(stage, settings, inputs, open_store(store), progress, params)
        done = True
    finally:
        progress.finish(done=done)
    if result.cached:
        return Completed(name="Cached", message=f"found in the store: {result.artifact.path}", data=result.artifact)
    return result.artifact


def task_for(name: str, params: Mapping[str, Any], settings: Settings) -> Task[..., Any]:
    """The task of one stage: its name, tags and time-out."""
    stage = get_stage(name)
    named = label(name, params)
    return stage_task.with_options(
        name=stage.name,
        task_run_name=named,
        description=stage.run.__doc__,
        tags={TRAINING} if stage.checkpoints else set(),
        timeout_seconds=settings.runtime.timeout_s + SPARE_S,
        retries=RETRIES,
        retry_delay_seconds=BACKOFF,
    )
