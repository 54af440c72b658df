"""Fan-out: a stage's shards as artifacts of their own, produced anywhere, merged into the bytes of one process.

Sharding never enters a stage's identity; a shard's identity is the stage's and its spec. Shards stay in the store until
the merged artifact is published, so that a failed one runs again alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from mirage_core.config import Settings
from mirage_core.distributed.forked import can_fork
from mirage_core.distributed.worker import die_with_parent
from mirage_core.errors import ArtifactDamaged, ArtifactError, ArtifactMissing, InputError, TrainingProcessDied
from mirage_core.methods import import_registered
from mirage_core.pipeline.stage import (
    Sharding,
    ShardSpec,
    Stage,
    StageContext,
    StageResult,
    label,
    run_stage,
    stage_fingerprint,
)
from mirage_core.store import Store
from mirage_core.types import Artifact, Progress, ProgressEvent

SHARD = "shard"
MAX_ATTEMPTS = 3
"""A shard that is damaged that often points to the store, not to the shard."""
GRACE_S = 10.0
"""Seconds between the interrupt and the kill of a child process."""


class Shard(BaseModel):
    """One shard of a stage's work, as JSON that any machine with the same store can run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    settings: Settings
    params: dict[str, Any]
    inputs: dict[str, Artifact]
    spec: ShardSpec

    @property
    def label(self) -> str:
        """The name people see: ``evaluation/stage-2 1 of 4``."""
        return f"{label(self.stage, self.params)} {self.spec}"


FanOut = Callable[[Sequence[Shard], Progress], Sequence[Artifact]]
"""Runs every shard somewhere, with ``run_shard``; returns their artifacts in the same order."""


def in_shards(stage: Stage, settings: Settings, fan_out: FanOut) -> Stage:
    """Return the stage with its work in ``runtime.shards`` shards; the stage itself where it is not split."""
    sharding = stage.sharding
    if sharding is None or settings.runtime.shards == 1:
        return stage
    return replace(stage, run=lambda context: _run_all(stage, sharding, context, fan_out), on_published=drop_shards)


def run_shard(shard: Shard, store: Store, progress: Progress) -> StageResult:
    """Return a shard's artifact: from the store where it is there, else run it."""
    from mirage_core.pipeline.registry import get_stage

    stage = get_stage(shard.stage)
    if stage.sharding is None:
        raise InputError(f"got a shard of the stage {stage.name}, which cannot be split")
    part = shard_stage(stage, stage.sharding, shard)
    return run_stage(part, shard.settings, shard.inputs, store, progress, shard.params)


def shard_stage(stage: Stage, sharding: Sharding, shard: Shard) -> Stage:
    """Return a shard as a stage: of the kind ``shard``, identified by the whole stage's fingerprint and the spec."""
    of = stage_fingerprint(stage, shard.settings, shard.inputs, shard.params)
    part = {"of": of, "share": shard.spec.model_dump()}
    return replace(
        stage,
        kind=SHARD,
        identity=lambda settings: part,  # noqa: ARG005 (the whole stage's fingerprint has them)
        run=lambda context: {**sharding.run(context, shard.spec), **part},
        sharding=None,
    )


def drop_shards(store: Store, of: str) -> None:
    """Remove the shards of a stage's fingerprint, however many: their work is in the merged artifact."""
    for artifact in store.list(SHARD):
        if artifact.summary.get("of") == of:
            store.remove(artifact)


def _run_all(stage: Stage, sharding: Sharding, context: StageContext, fan_out: FanOut) -> dict[str, Any]:
    count = min(context.settings.runtime.shards, sharding.max_shards(context))
    if count <= 1:
        return stage.run(context)
    shards = [
        Shard(
            stage=stage.name,
            settings=context.settings,
            params=dict(context.params),
            inputs=dict(context.inputs),
            spec=ShardSpec(index=index, count=count),
        )
        for index in range(count)
    ]
    return sharding.merge(context, _verified_folders(shards, context.store, context.progress, fan_out))


def _verified_folders(shards: Sequence[Shard], store: Store, progress: Progress, fan_out: FanOut) -> list[Path]:
    """Return the verified local folder of every shard; a damaged shard runs again, alone."""
    folders: dict[int, Path] = {}
    fault: ArtifactError | None = None
    for _ in range(MAX_ATTEMPTS):
        missing = [shard for shard in shards if shard.spec.index not in folders]
        for shard, artifact in zip(missing, fan_out(missing, progress), strict=True):
            try:
                folders[shard.spec.index] = store.fetch(artifact)
            except (ArtifactDamaged, ArtifactMissing) as error:  # the store has quarantined it
                fault = error
                progress(ProgressEvent(stage=shard.stage, message=f"shard {shard.spec} runs again: {error}"))
        if len(folders) == len(shards):
            return [folders[index] for index in range(len(shards))]
    raise ArtifactError(
        f"a shard of {shards[0].stage} was damaged {MAX_ATTEMPTS} times: check the store {store.url} and its disk, "
        "then run again"
    ) from fault


# In processes of this machine


def in_processes(reopen: Callable[[], Store]) -> FanOut:
    """Return a fan-out to new processes of this machine, one a shard; ``reopen`` opens the store in each (picklable).

    When a shard fails the others finish and stay: only it runs again in the next attempt.
    Raises TrainingProcessDied when a process was killed; no process outlives this one.
    """

    def fan_out(shards: Sequence[Shard], progress: Progress) -> list[Artifact]:
        processes = _processes()
        stopped = processes.Event()
        begin = (os.getpid(), stopped, dict(os.environ))
        with ProcessPoolExecutor(len(shards), processes, _begin_child, begin) as pool:
            try:
                futures = [pool.submit(_in_child, shard.model_dump_json(), reopen) for shard in shards]
                return _gathered(shards, futures, progress)
            except BaseException:
                if not all(future.done() for future in futures):
                    stopped.set()
                raise

    return fan_out


def _processes() -> BaseContext:
    """Where child processes come from: a server that has imported torch once, where processes may be forked."""
    if not can_fork():
        return multiprocessing.get_context("spawn")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["mirage_core.evaluation.evaluate"])
    return processes


def _gathered(shards: Sequence[Shard], futures: Sequence[Future[str]], progress: Progress) -> list[Artifact]:
    """Return every shard's artifact, reporting each as it finishes; the first error is raised when all have ended."""
    running = set(futures)
    while running:
        _, running = wait(running, return_when="FIRST_COMPLETED")
        finished = sum(future.done() and future.exception() is None for future in futures)
        progress(ProgressEvent(stage=shards[0].stage, message="shards", step=finished, total=len(shards)))
    try:
        return [Artifact.model_validate_json(future.result()) for future in futures]
    except BrokenProcessPool as error:
        raise TrainingProcessDied(
            f"a process that ran a shard of {shards[0].stage} was killed; run again: finished shards are kept"
        ) from error


def _in_child(shard: str, reopen: Callable[[], Store]) -> str:
    """Run one shard in a child process; JSON in and out."""
    import_registered()
    result = run_shard(Shard.model_validate_json(shard), reopen(), _silent)
    return result.artifact.model_dump_json()


def _begin_child(parent: int, stopped: Event, environment: dict[str, str]) -> None:
    """Give this child process its parent's environment; end it with the parent, interrupt it when the parent stops."""
    os.environ.clear()
    os.environ.update(environment)
    die_with_parent(os.getppid(), parent)  # the server of forked processes may stand between the two

    def watch() -> None:
        stopped.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


def _silent(event: ProgressEvent) -> None:
    """Ignore a child's progress: it has no reader."""
