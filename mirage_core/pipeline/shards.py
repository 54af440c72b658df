"""Fan-out: a stage's shares as artifacts of their own, made anywhere, merged into what one process would have made.

How a stage is cut never enters its identity; a share's identity is the stage's and the share. Shards stay in the store
until the merged artifact is published, so that a failed one is made again alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from mirage_core.config import Settings
from mirage_core.distributed.worker import end_with_parent
from mirage_core.errors import ArtifactDamaged, ArtifactError, ArtifactMissing, InputError, TrainingProcessDied
from mirage_core.pipeline.stage import Cut, Share, Stage, StageContext, StageResult, label, run_stage, stage_fingerprint
from mirage_core.store import Store
from mirage_core.types import Artifact, Progress, ProgressEvent

SHARD = "shard"
# A shard that is damaged again and again points to the store, not to the shard.
MADE_AT_MOST = 3
GRACE_S = 10.0


class Shard(BaseModel):
    """One share of a stage's work, as JSON that any machine with the same store can act on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    settings: Settings
    params: dict[str, Any]
    inputs: dict[str, Artifact]
    share: Share

    @property
    def label(self) -> str:
        """The name people see: ``evaluation/stage-2 1 of 4``."""
        return f"{label(self.stage, self.params)} {self.share}"


FanOut = Callable[[Sequence[Shard], Progress], Sequence[Artifact]]
"""Makes every shard somewhere, with ``run_shard``, and returns their artifacts in the same order."""


def run_stage_in_shards(
    stage: Stage,
    settings: Settings,
    inputs: Mapping[str, Artifact],
    store: Store,
    progress: Progress,
    params: Mapping[str, Any] | None = None,
    *,
    fan_out: FanOut,
    guard: AbstractContextManager[object] | None = None,
) -> StageResult:
    """``run_stage``, with the work shared out where ``runtime.shards`` says so and the stage can be cut."""
    if stage.cut is None or settings.runtime.shards == 1:
        return run_stage(stage, settings, inputs, store, progress, params, guard=guard)
    cut = stage.cut
    result = run_stage(
        replace(stage, run=lambda context: _fanned_out(stage, cut, context, fan_out)),
        settings,
        inputs,
        store,
        progress,
        params,
        guard=guard,
    )
    if not result.cached:
        drop_shards(store, stage_fingerprint(stage, settings, inputs, params))
    return result


def run_shard(shard: Shard, store: Store, progress: Progress) -> StageResult:
    """Give a shard's artifact: from the store where it is there, else by doing its share of the work."""
    from mirage_core.pipeline.registry import get_stage

    stage = get_stage(shard.stage)
    if stage.cut is None:
        raise InputError(f"got a shard of the stage {stage.name}, which cannot be cut")
    part = shard_stage(stage, stage.cut, shard)
    return run_stage(part, shard.settings, shard.inputs, store, progress, shard.params)


def shard_stage(stage: Stage, cut: Cut, shard: Shard) -> Stage:
    """A share of a stage as a stage: of the kind ``shard``, identified by the whole stage and the share."""
    of = stage_fingerprint(stage, shard.settings, shard.inputs, shard.params)
    told = {"of": of, "share": shard.share.model_dump()}
    return replace(
        stage,
        kind=SHARD,
        identity=lambda settings: told,  # noqa: ARG005 (the whole stage's fingerprint has them)
        run=lambda context: {**cut.run(context, shard.share), **told},
        cut=None,
    )


def drop_shards(store: Store, of: str) -> None:
    """Remove the shards of a stage's fingerprint, however it was cut: their work is in the merged artifact."""
    for artifact in store.list(SHARD):
        if artifact.summary.get("of") == of:
            store.remove(artifact)


def _fanned_out(stage: Stage, cut: Cut, context: StageContext, fan_out: FanOut) -> dict[str, Any]:
    count = min(context.settings.runtime.shards, cut.pieces(context))
    if count <= 1:
        return stage.run(context)
    shards = [
        Shard(
            stage=stage.name,
            settings=context.settings,
            params=dict(context.params),
            inputs=dict(context.inputs),
            share=Share(index=index, count=count),
        )
        for index in range(count)
    ]
    return cut.merge(context, _verified_folders(shards, context.store, context.progress, fan_out))


def _verified_folders(shards: Sequence[Shard], store: Store, progress: Progress, fan_out: FanOut) -> list[Path]:
    """The local folder of every shard, every byte verified; a shard whose bytes are wrong is made again, alone."""
    folders: dict[int, Path] = {}
    fault: ArtifactError | None = None
    for _ in range(MADE_AT_MOST):
        missing = [shard for shard in shards if shard.share.index not in folders]
        for shard, artifact in zip(missing, fan_out(missing, progress), strict=True):
            try:
                folders[shard.share.index] = store.fetch(artifact)
            except (ArtifactDamaged, ArtifactMissing) as error:  # out of use from here on: the store saw to that
                fault = error
                progress(ProgressEvent(stage=shard.stage, message=f"shard {shard.share} is made again: {error}"))
        if len(folders) == len(shards):
            return [folders[index] for index in range(len(shards))]
    raise ArtifactError(
        f"a shard of {shards[0].stage} was damaged {MADE_AT_MOST} times: look at the store {store.url} and its disk, "
        "then run again"
    ) from fault


# In processes of this machine


def in_processes(reopen: Callable[[], Store]) -> FanOut:
    """A fan-out to fresh processes of this machine, one a shard; ``reopen`` opens the store in each (picklable).

    A shard that fails lets the others finish: they are kept, and only it is made again by the next attempt.
    Raises TrainingProcessDied when a process was killed; no process outlives this one.
    """

    def fan_out(shards: Sequence[Shard], progress: Progress) -> list[Artifact]:
        spawn = multiprocessing.get_context("spawn")
        stopped = spawn.Event()
        with ProcessPoolExecutor(len(shards), spawn, _heed, (os.getpid(), stopped)) as pool:
            try:
                futures = [pool.submit(_in_child, shard.model_dump_json(), reopen) for shard in shards]
                return _gathered(shards, futures, progress)
            except BaseException:
                if not all(future.done() for future in futures):
                    stopped.set()
                raise

    return fan_out


def _gathered(shards: Sequence[Shard], futures: Sequence[Future[str]], progress: Progress) -> list[Artifact]:
    """Every shard's artifact, each told as it comes; the first error is raised when all have ended."""
    open_ = set(futures)
    while open_:
        _, open_ = wait(open_, return_when="FIRST_COMPLETED")
        good = sum(future.done() and future.exception() is None for future in futures)
        progress(ProgressEvent(stage=shards[0].stage, message="shards", step=good, total=len(shards)))
    try:
        return [Artifact.model_validate_json(future.result()) for future in futures]
    except BrokenProcessPool as error:
        raise TrainingProcessDied(
            f"a process that made a shard of {shards[0].stage} was killed; run again: finished shards are kept"
        ) from error


def _in_child(shard: str, reopen: Callable[[], Store]) -> str:
    """Make one shard in a child process; JSON in and out."""
    result = run_shard(Shard.model_validate_json(shard), reopen(), _silent)
    return result.artifact.model_dump_json()


def _heed(parent: int, stopped: Event) -> None:
    """Let this child process end with its parent, and be interrupted (then killed) when the parent gives up."""
    end_with_parent(parent)

    def watch() -> None:
        stopped.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(GRACE_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="heed-the-parent", daemon=True).start()


def _silent(event: ProgressEvent) -> None:
    """A child's progress has no reader."""
