"""A stage and how it is run: fingerprint, look in the store, else work in an empty folder and publish."""

from __future__ import annotations

import errno
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from mirage_core.config import Settings, identity
from mirage_core.errors import ArtifactDamaged, ArtifactError, ArtifactMissing, InputError, StoreUnavailable
from mirage_core.pipeline.provenance import made_with
from mirage_core.pipeline.work_dirs import drop_scratch, kept_scratch, work_folder
from mirage_core.store import Store, fingerprint
from mirage_core.types import Artifact, Progress, ProgressEvent

if TYPE_CHECKING:
    pass  # SELF


Item = TypeVar("Item")


class Share(BaseModel):
    """One of ``count`` equal, contiguous parts of a stage's work."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: int = Field(ge=0, description="Counted from 0.")
    count: int = Field(gt=0)

    def bounds(self, items: int) -> tuple[int, int]:
        """Where this share of so many items begins and ends; the shares together hold each item once."""
        return items * self.index // self.count, items * (self.index + 1) // self.count

    def of(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items of this share, in their order."""
        begin, end = self.bounds(len(items))
        return items[begin:end]

    def __str__(self) -> str:
        return f"{self.index + 1} of {self.count}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How a stage is cut.

    ``pieces`` says how many parts the work has at most. ``run`` does one share into the output folder. ``merge`` is
    given the folders of all shares, in order, and writes the very files that the stage's own ``run`` would have
    written, byte for byte; like ``run`` it returns the summary.
    """

    pieces: Callable[[StageContext], int]
    run: Callable[[StageContext, Share], dict[str, Any]]
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
    """One step of the road.

    ``identity`` picks the settings that change the result, ``runtime`` never. ``run`` fills the output
    folder and returns a few figures for people. Raise ``version`` whenever the code changes the result.
    ``inputs`` are the names it needs, None for a stage that takes whatever it is given (the report).
    ``checkpoints``: it resumes from the store's; ``keeps_scratch``: from what it left in its scratch folder.
    ``gpu``: it runs a model, so that two of them must not share a GPU.
    ``cut``: how it is shared out to several processes or machines (``stages/shards.py``).
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
    cut: Cut | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """A stage's artifact, whether it was in the store already, and the seconds it took now."""

    artifact: Artifact
    cached: bool
    seconds: float


def label(name: str, params: Mapping[str, Any]) -> str:
    """The name people see: ``evaluation/stage-2``, ``measure/probes``, the stage's name otherwise."""
    chosen = params.get("method") or params.get("measure")
    return f"{name}/{chosen}" if chosen else name


def stage_fingerprint(
    stage: Stage, settings: Settings, inputs: Mapping[str, Artifact], params: Mapping[str, Any] | None = None
) -> str:
    """What a stage's result depends on, as one sha256: its version, settings, parameters and input digests."""
    chosen = dict(params or {})
    _check_call(stage, inputs, chosen)
    relevant = {"settings": stage.identity(settings), "params": chosen}
    return fingerprint(stage.name, stage.version, relevant, {name: given.digest for name, given in inputs.items()})


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
    """Give the stage's artifact: from the store where it is there, else by running it and publishing.

    ``guard`` is entered round the work alone (it may wait for a GPU); the store is looked into again inside it.
    Raises what the stage raises; ArtifactDamaged or ArtifactMissing whose ``lost`` names the inputs that could not be
    read; StoreUnavailable when there is no room left on a disk.
    """
    _use_task(settings)
    chosen = dict(params or {})
    named = label(stage.name, chosen)
    started = time.monotonic()
    identified = stage_fingerprint(stage, settings, inputs, chosen)
    found = store.find(stage.kind, identified)
    if found is not None:
        drop_scratch(_unfinished(store, identified))
        return _found(found, named, progress, started)
    store.check_writable()
    with guard or nullcontext():
        found = store.find(stage.kind, identified) if guard else None
        if found is not None:
            return _found(found, named, progress, started)
        return _worked(stage, settings, inputs, store, progress, chosen, identified)


def _unfinished(store: Store, identified: str) -> Path:
    """Where a stage that keeps its scratch leaves it until its artifact is published."""
    return store.cache / "unfinished" / identified[:20]


def _found(artifact: Artifact, named: str, progress: Progress, started: float) -> StageResult:
    progress(ProgressEvent(stage=named, message=f"cached: {artifact.path}"))
    return StageResult(artifact=artifact, cached=True, seconds=time.monotonic() - started)


def _worked(
    stage: Stage,
    settings: Settings,
    inputs: Mapping[str, Artifact],
    store: Store,
    progress: Progress,
    chosen: Mapping[str, Any],
    identified: str,
) -> StageResult:
    """Run the stage in folders of its own and publish what it made; its seconds are those of the work."""
    named = label(stage.name, chosen)
    started = time.monotonic()
    progress(ProgressEvent(stage=named, message=f"started: {stage.kind}/{identified[:20]}"))

    def told(event: ProgressEvent) -> None:
        progress(replace(event, stage=named))

    with _room_watched(named), _folders(stage, store, identified) as (output, scratch):
        context = StageContext(
            settings=settings.model_copy(update={"runtime": settings.runtime.for_stage(stage.name)}),
            params=chosen,
            inputs=dict(inputs),
            input_paths=_fetched(inputs, store, told),
            output=output,
            scratch=scratch,
            store=store,
            fingerprint=identified,
            progress=told,
        )
        summary = stage.run(context)
        seconds = time.monotonic() - started
        about = _about(stage, settings, inputs, chosen, identified, seconds)
        artifact = store.publish(stage.kind, identified, context.output, summary=summary, about=about, progress=told)
    _check_round_trip(store, stage, identified, artifact)
    if stage.checkpoints:
        store.drop_checkpoints(identified)
    seconds = time.monotonic() - started
    progress(ProgressEvent(stage=named, message=f"done in {seconds:.1f} s: {artifact.path}"))
    return StageResult(artifact=artifact, cached=False, seconds=seconds)


def _use_task(settings: Settings) -> None:
    """Let this process, whatever it is, know the user's own task."""
    if settings.problems.task is not None:
        from mirage_core import benchmarks

        benchmarks.use(settings.problems)


def _fetched(inputs: Mapping[str, Artifact], store: Store, progress: Progress) -> dict[str, Path]:
    """The verified local folder of every input; all are looked at before the first fault is raised."""
    folders: dict[str, Path] = {}
    faults: list[ArtifactDamaged | ArtifactMissing] = []
    lost: list[str] = []
    for name, given in inputs.items():
        try:
            folders[name] = store.fetch(given, progress)
        except (ArtifactDamaged, ArtifactMissing) as error:
            faults.append(error)
            lost.append(given.path)
    if faults:
        faults[0].lost = tuple(lost)
        raise faults[0]
    return folders


@contextmanager
def _folders(stage: Stage, store: Store, identified: str) -> Iterator[tuple[Path, Path]]:
    """An empty output folder and a scratch folder; both go afterwards, a kept scratch only when the work is done."""
    with work_folder(stage.name) as folder, ExitStack() as stack:
        output, scratch = folder / "output", folder / "scratch"
        output.mkdir()
        scratch.mkdir()
        if stage.keeps_scratch:
            scratch = stack.enter_context(kept_scratch(_unfinished(store, identified)))
        yield output, scratch


def _about(
    stage: Stage,
    settings: Settings,
    inputs: Mapping[str, Artifact],
    params: Mapping[str, Any],
    identified: str,
    seconds: float,
) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "version": stage.version,
        "params": dict(params),
        "fingerprint": identified,
        "inputs": {name: {"path": given.path, "digest": given.digest} for name, given in inputs.items()},
        "seconds": round(seconds, 3),
        "settings": identity(settings),
        "made_with": made_with(),
    }


def _check_call(stage: Stage, inputs: Mapping[str, Artifact], params: Mapping[str, Any]) -> None:
    if stage.inputs is not None and set(inputs) != set(stage.inputs):
        raise InputError(
            f"stage {stage.name} got the inputs {sorted(inputs)}, expected {sorted(stage.inputs)}: "
            "give it the artifacts of the stages before it"
        )
    if set(params) != set(stage.params):
        raise InputError(f"stage {stage.name} got the parameters {sorted(params)}, expected {sorted(stage.params)}")


def _check_round_trip(store: Store, stage: Stage, identified: str, artifact: Artifact) -> None:
    found = store.find(stage.kind, identified)
    if found is None or found.digest != artifact.digest:
        raise ArtifactError(
            f"{artifact.path} was published with the digest {artifact.digest[:12]}, but the store now gives "
            f"{found.digest[:12] if found else 'nothing'}: something else writes to or deletes from this store; "
            "stop it, then run again"
        )


@contextmanager
def _room_watched(named: str) -> Iterator[None]:
    """Turn a full disk, wherever it was noticed, into an error that says the way out."""
    try:
        yield
    except StoreUnavailable:
        raise
    except Exception as error:
        if not _is_full_disk(error):
            raise
        raise StoreUnavailable(
            f"stage {named}: no space left on {tempfile.gettempdir()} or on the store's disk ({error}). Nothing was "
            "published. Free some room, or point TMPDIR and the store's root to a larger disk, then run again"
        ) from error


def _is_full_disk(problem: BaseException) -> bool:
    full = isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(problem)
