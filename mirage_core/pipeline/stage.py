"""A stage and how it runs: its fingerprint, a look in the store, else work in an empty folder that is published."""

from __future__ import annotations

import errno
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from mirage_core.config import Settings, identity
from mirage_core.errors import (
    ArtifactDamaged,
    ArtifactError,
    ArtifactMissing,
    InputError,
    JobCancelled,
    StoreUnavailable,
)
from mirage_core.pipeline.provenance import provenance
from mirage_core.pipeline.work_dirs import drop_scratch, persistent_scratch, work_folder
from mirage_core.store import Store, fingerprint
from mirage_core.types import Artifact, Progress, ProgressEvent

Item = TypeVar("Item")

_ENDED: ContextVar[threading.Event | None] = ContextVar("ended", default=None)
"""Set where the stages of a run's threads shall end."""


class ShardSpec(BaseModel):
    """One of ``count`` equal, contiguous shards of a stage's work."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int = Field(ge=0, description="Counted from 0.")
    count: int = Field(gt=0)

    def bounds(self, items: int) -> tuple[int, int]:
        """Return where this shard of so many items begins and ends; the shards together hold each item once."""
        return items * self.index // self.count, items * (self.index + 1) // self.count

    def select(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the items of this shard, in their order."""
        begin, end = self.bounds(len(items))
        return items[begin:end]

    def __str__(self) -> str:
        return f"{self.index + 1} of {self.count}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """How a stage's work is split into shards.

    ``max_shards`` returns how many shards the work has at most. ``run`` does one shard into the output folder.
    ``merge`` takes the folders of all shards, in order, and writes the very files that the stage's own ``run`` would
    have written, byte for byte; like ``run`` it returns the summary.
    """

    max_shards: Callable[[StageContext], int]
    run: Callable[[StageContext, ShardSpec], dict[str, Any]]
    merge: Callable[[StageContext, Sequence[Path]], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """What a stage's ``run`` works with.

    ``inputs`` are handles, ``input_paths`` the verified local folders of their files. Results go into
    ``output`` (empty at first; everything in it is published); ``scratch`` is thrown away afterwards.
    """

    settings: Settings
    params: Mapping[str, Any]
    inputs: Mapping[str, Artifact]
    input_paths: Mapping[str, Path]
    output: Path
    scratch: Path
    store: Store
    fingerprint: str
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of the pipeline.

    ``identity`` selects the settings that change the result, never ``runtime``. ``run`` fills the output folder and
    returns a summary: a few figures for people. Raise ``version`` whenever the code changes the result.
    ``inputs`` are the names it needs, None for a stage that takes any (the report).
    ``checkpoints``: it resumes from the store's; ``keeps_scratch``: from what it left in its scratch folder.
    ``gpu``: it runs a model, so that two of them must not share a GPU.
    ``sharding``: how it is split over several processes or machines (``pipeline/shards.py``).
    ``on_published``: called with the store and the fingerprint when the artifact of new work is in the store.
    """

    name: str
    version: int
    kind: str
    inputs: tuple[str, ...] | None
    identity: Callable[[Settings], dict[str, Any]]
    run: Callable[[StageContext], dict[str, Any]]
    params: tuple[str, ...] = ()
    checkpoints: bool = False
    keeps_scratch: bool = False
    gpu: bool = False
    sharding: Sharding | None = None
    on_published: Callable[[Store, str], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """A stage's artifact, whether it was in the store already, and the seconds it took now."""

    artifact: Artifact
    cached: bool
    seconds: float


def label(name: str, params: Mapping[str, Any]) -> str:
    """Return the name people see: ``evaluation/stage-2``, ``measure/probes``, the stage's name otherwise."""
    variant = params.get("method") or params.get("measure")
    return f"{name}/{variant}" if variant else name


def stage_fingerprint(
    stage: Stage, settings: Settings, inputs: Mapping[str, Artifact], params: Mapping[str, Any] | None = None
) -> str:
    """Return a sha256 of all a stage's result depends on: its version, settings, parameters and input digests."""
    _check_call(stage, inputs, params or {})
    relevant = {"settings": stage.identity(settings), "params": dict(params or {})}
    digests = {name: artifact.digest for name, artifact in inputs.items()}
    return fingerprint(stage.name, stage.version, relevant, digests)


def run_stage(
    stage: Stage,
    settings: Settings,
    inputs: Mapping[str, Artifact],
    store: Store,
    progress: Progress,
    params: Mapping[str, Any] | None = None,
    *,
    guard: AbstractContextManager[object] | None = None,
) -> StageResult:
    """Return the stage's artifact: from the store where it is there, else run the stage and publish.

    ``guard`` is entered around the work alone (it may wait for a GPU); the store is checked again inside it.
    Raises what the stage raises; ArtifactDamaged or ArtifactMissing whose ``lost`` names the inputs that could not be
    read; StoreUnavailable when a disk is full.
    """
    _use_task(settings)
    call = _Call(stage, settings, inputs, store, progress, dict(params or {}))
    started = time.monotonic()
    cached = store.find(stage.kind, call.fingerprint)
    if cached is not None:
        drop_scratch(call.scratch)
        return call.cached(cached, started)
    store.check_writable()
    with guard or nullcontext():
        cached = store.find(stage.kind, call.fingerprint) if guard else None
        return call.cached(cached, started) if cached is not None else call.run()


class _Call:
    """One call of a stage: its arguments, its label, and its fingerprint."""

    def __init__(
        self,
        stage: Stage,
        settings: Settings,
        inputs: Mapping[str, Artifact],
        store: Store,
        progress: Progress,
        params: Mapping[str, Any],
    ) -> None:
        self.stage, self.settings, self.inputs, self.params = stage, settings, inputs, params
        self.store, self.label = store, label(stage.name, params)
        self.fingerprint = stage_fingerprint(stage, settings, inputs, params)
        self._report = progress

    def progress(self, event: ProgressEvent) -> None:
        """Report an event under the stage's label; a stage without checkpoints ends here where its run has ended."""
        ended = _ENDED.get()
        if ended is not None and ended.is_set() and not self.stage.checkpoints:
            raise JobCancelled(f"{self.label} was ended with its run; run again to continue")
        self._report(replace(event, stage=self.label))

    @property
    def scratch(self) -> Path:
        """The scratch folder of a stage that keeps it, until its artifact is published."""
        return self.store.cache / "unfinished" / self.fingerprint[:20]

    def cached(self, artifact: Artifact, started: float) -> StageResult:
        """Return the result of a stage that had finished before."""
        self._log("cached", artifact.path)
        return StageResult(artifact=artifact, cached=True, seconds=time.monotonic() - started)

    def run(self) -> StageResult:
        """Run the stage in its own folders and publish its files; its seconds are those of the work."""
        stage, store, started = self.stage, self.store, time.monotonic()
        self._log("started", f"{stage.kind}/{self.fingerprint[:20]}")
        with _full_disk_explained(self.label), self._folders() as (output, scratch):
            context = StageContext(
                settings=self.settings.model_copy(update={"runtime": self.settings.runtime.for_stage(stage.name)}),
                params=self.params,
                inputs=dict(self.inputs),
                input_paths=_fetched(self.inputs, store, self.progress),
                output=output,
                scratch=scratch,
                store=store,
                fingerprint=self.fingerprint,
                progress=self.progress,
            )
            summary = stage.run(context)
            about = self._about(time.monotonic() - started)
            artifact = store.publish(
                stage.kind, self.fingerprint, output, summary=summary, about=about, progress=self.progress
            )
        self._check_round_trip(artifact)
        if stage.checkpoints:
            store.drop_checkpoints(self.fingerprint)
        if stage.on_published is not None:
            stage.on_published(store, self.fingerprint)
        seconds = time.monotonic() - started
        self._log("done", artifact.path, f" in {seconds:.1f} s")
        return StageResult(artifact=artifact, cached=False, seconds=seconds)

    def _log(self, state: Literal["started", "cached", "done"], path: str, seconds: str = "") -> None:
        self.progress(ProgressEvent(stage=self.label, state=state, message=f"{state}{seconds}: {path}"))

    @contextmanager
    def _folders(self) -> Iterator[tuple[Path, Path]]:
        """An empty output folder and a scratch folder, removed afterwards; a persistent scratch only after success."""
        with work_folder(self.stage.name) as folder, ExitStack() as stack:
            output, scratch = folder / "output", folder / "scratch"
            output.mkdir()
            scratch.mkdir()
            if self.stage.keeps_scratch:
                scratch = stack.enter_context(persistent_scratch(self.scratch))
            yield output, scratch

    def _about(self, seconds: float) -> dict[str, Any]:
        return {
            "stage": self.stage.name,
            "version": self.stage.version,
            "params": dict(self.params),
            "fingerprint": self.fingerprint,
            "inputs": {name: {"path": each.path, "digest": each.digest} for name, each in self.inputs.items()},
            "seconds": round(seconds, 3),
            "settings": identity(self.settings),
            "made_with": provenance(),
        }

    def _check_round_trip(self, artifact: Artifact) -> None:
        stored = self.store.find(self.stage.kind, self.fingerprint)
        if stored is None or stored.digest != artifact.digest:
            raise ArtifactError(
                f"{artifact.path} was published with the digest {artifact.digest[:12]}, but the store now gives "
                f"{stored.digest[:12] if stored else 'nothing'}: something else writes to or deletes from this store; "
                "stop it, then run again"
            )


@contextmanager
def end_work() -> Iterator[threading.Event]:
    """Yield an event that ends the stages which threads run with this context: at their next progress."""
    ended = threading.Event()
    token = _ENDED.set(ended)
    try:
        yield ended
    finally:
        _ENDED.reset(token)


def _use_task(settings: Settings) -> None:
    """Register the user's own task in this process, whatever process it is."""
    if settings.problems.task is not None:
        from mirage_core import benchmarks

        benchmarks.use(settings.problems)


def _fetched(inputs: Mapping[str, Artifact], store: Store, progress: Progress) -> dict[str, Path]:
    """Return the verified local folder of every input; all are checked before the first fault is raised."""
    folders: dict[str, Path] = {}
    faults: list[ArtifactDamaged | ArtifactMissing] = []
    lost: list[str] = []
    for name, artifact in inputs.items():
        try:
            folders[name] = store.fetch(artifact, progress)
        except (ArtifactDamaged, ArtifactMissing) as error:
            faults.append(error)
            lost.append(artifact.path)
    if faults:
        faults[0].lost = tuple(lost)
        raise faults[0]
    return folders


def _check_call(stage: Stage, inputs: Mapping[str, Artifact], params: Mapping[str, Any]) -> None:
    if stage.inputs is not None and set(inputs) != set(stage.inputs):
        raise InputError(
            f"stage {stage.name} got the inputs {sorted(inputs)}, expected {sorted(stage.inputs)}: "
            "give it the artifacts of the stages before it"
        )
    if set(params) != set(stage.params):
        raise InputError(f"stage {stage.name} got the parameters {sorted(params)}, expected {sorted(stage.params)}")


@contextmanager
def _full_disk_explained(stage_label: str) -> Iterator[None]:
    """Turn a full disk, wherever it was noticed, into an error that names the way out."""
    try:
        yield
    except StoreUnavailable:
        raise
    except Exception as error:
        if not _is_full_disk(error):
            raise
        raise StoreUnavailable(
            f"stage {stage_label}: no space left on {tempfile.gettempdir()} or on the store's disk ({error}). Nothing "
            "was published. Free some room, or point TMPDIR and the store's root to a larger disk, then run again"
        ) from error


def _is_full_disk(error: BaseException) -> bool:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)
