"""Part "flips": bit flips and truncations over everything the store keeps; each noticed, named, and never used."""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mirage_core.errors import ArtifactDamaged, ArtifactMissing, MirageError
from mirage_core.pipeline.run_record import RunRecord, load_record
from mirage_core.pipeline.shards import SHARD
from mirage_core.store import Store
from mirage_core.store.artifact_folder import read_manifest
from mirage_core.store.manifest import MANIFEST
from mirage_core.types import Artifact
from tests.soak import beside
from tests.soak.counts import Tally
from tests.soak.pipeline_run import PipelineRun

UNNOTICED = "damages not noticed"
UNNAMED = "damages not named"
USED = "damages used"
WRONG = "stages run again with another digest"
MORE = "stages run again beside the damaged one"
WRONGS = (UNNOTICED, UNNAMED, USED, WRONG, MORE)
TRUNCATED = 0.25
POINTER = "nightly"


@dataclass(frozen=True)
class Target:
    """A file of the store: what it is part of, where it lies, and its right bytes.

    ``path`` and ``name`` are what the product calls it by: the same where it is a record of its own.
    """

    kind: str
    path: str
    name: str
    key: str
    data: bytes


@dataclass
class Pristine:
    """A complete store on this disk, with two checkpoints and all that lies beside a pipeline, never damaged itself.

    ``run`` and ``steps``: of the checkpoints; ``model``: what the pointer names.
    """

    store: Store
    artifacts: dict[str, Artifact]
    targets: dict[str, list[Target]]
    run: str
    steps: tuple[int, int]
    model: Artifact

    @classmethod
    def of(cls, pipeline: PipelineRun) -> Pristine:
        """What an undisturbed pipeline left, the last checkpoints of its last training, and what is put beside."""
        store = pipeline.store()
        model = store.get(next(s.path or "" for s in _record(store).stages if s.name == "relaxation"))
        beside.put_beside(store, model)
        artifacts = {artifact.path: artifact for artifact in store.list()}
        run = store.manifest(model).fingerprint
        checkpoints = sorted(
            path for path in pipeline.checkpoint_copies.iterdir() if path.name.startswith("relaxation-")
        )[-2:]
        steps = (int(checkpoints[0].name.split("-")[1]), int(checkpoints[1].name.split("-")[1]))
        for step, folder in zip(steps, checkpoints, strict=True):
            store.save_checkpoint(run, step, folder)
        store.point(POINTER, model)
        return cls(store, artifacts, _targets(store, artifacts, run, steps[1]), run, steps, model)


def _record(store: Store) -> RunRecord:
    return load_record(store, max(store.names("runs/")))


def _targets(store: Store, artifacts: dict[str, Artifact], run: str, step: int) -> dict[str, list[Target]]:
    result: dict[str, list[Target]] = {}

    def add(kind: str, path: str, name: str, key: str) -> None:
        result.setdefault(kind, []).append(Target(kind, path, name, key, store.backend.read(key)))

    for path, artifact in artifacts.items():
        manifest = store.manifest(artifact)
        add("manifest", path, MANIFEST, f"{path}/{MANIFEST}")
        for entry in manifest.files:
            add(artifact.kind, path, entry.name, f"{path}/{manifest.folder}/{entry.name}")
    path = f"checkpoints/{run[:20]}/{step:08d}"
    manifest = read_manifest(store.backend, path)
    add("checkpoint's manifest", path, MANIFEST, f"{path}/{MANIFEST}")
    for entry in manifest.files:
        add("checkpoint", path, entry.name, f"{path}/{manifest.folder}/{entry.name}")
    for name in store.names("runs"):
        add("run record", name, name, name)
    add("pointer", f"pointers/{POINTER}.json", f"pointers/{POINTER}.json", f"pointers/{POINTER}.json")
    for kind, files in beside.keys(store).items():
        for name, key in files:
            add(kind, name, name, key)
    return result


def damaged(data: bytes, chance: random.Random) -> tuple[bytes, str]:
    """The bytes after one bit flip, or after a truncation; and what was done, in words."""
    if chance.random() < TRUNCATED:
        length = chance.randrange(len(data))
        return data[:length], f"cut from {len(data)} to {length} bytes"
    at, bit = chance.randrange(len(data)), chance.randrange(8)
    return data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :], f"bit {bit} of byte {at} flipped"


class Flipper:
    """Damages a copy of a pristine store, file after file, and looks what the product says."""

    def __init__(self, pristine: Pristine, store: Store, seed: int, tally: Tally) -> None:
        self._pristine, self._store, self._tally = pristine, store, tally
        self._chance = random.Random(seed)
        self._copy_all()

    def run(self, flips: int, advance: Callable[[int], None]) -> None:
        """Kind after kind in turn, a drawn file of it, a drawn damage."""
        kinds = sorted(self._pristine.targets)
        for number in range(flips):
            target = self._chance.choice(self._pristine.targets[kinds[number % len(kinds)]])
            self._damage_one(target)
            advance(1)

    def rerun(self, pipeline: PipelineRun, reruns: int, advance: Callable[[int], None]) -> None:
        """Damage, notice, run the pipeline again: the damaged artifact comes back with its digest, alone."""
        kinds = {a.kind for a in self._pristine.artifacts.values()} - {SHARD}  # no stage of a pipeline that is done
        kinds = [kind for kind in sorted(self._pristine.targets) if kind in kinds]
        for number in range(reruns):
            target = self._chance.choice(self._pristine.targets[kinds[number % len(kinds)]])
            artifact = self._pristine.artifacts[target.path]
            data, how = damaged(target.data, self._chance)
            self._store.backend.write(target.key, data)
            with suppress(MirageError):
                self._fresh().fetch(artifact)
            self._walk_again(pipeline, artifact, f"{target.key}, {how}")
            self._restore(target)
            advance(1)

    def _walk_again(self, pipeline: PipelineRun, artifact: Artifact, case: str) -> None:
        with pipeline:
            if pipeline.start().wait(timeout=600):
                raise AssertionError(f"the pipeline failed after {case}: {pipeline.log_file.read_text()[-3000:]}")
        self._tally.count(f"stages run again: {artifact.kind}")
        for line in _record(pipeline.store()).stages:
            before = next(s for s in _record(self._pristine.store).stages if s.name == line.name)
            if line.digest != before.digest:
                self._tally.fault(WRONG, f"{case}: {line.name} has {line.digest}, had {before.digest}")
            if (line.path == artifact.path) == line.cached:
                self._tally.fault(MORE, f"{case}: {line.name} was {line.state}")

    def _damage_one(self, target: Target) -> None:
        data, how = damaged(target.data, self._chance)
        case = f"{target.key}, {how}"
        self._store.backend.write(target.key, data)
        self._tally.count(f"damaged: {target.kind}")
        self._tally.count("truncations" if how.startswith("cut") else "bit flips")
        look = _CHECKS.get(target.kind, Flipper._look_artifact)
        with _heard() as warnings:
            message = look(self, target, case)
        if message is None:
            self._tally.fault(UNNOTICED, case)
        else:
            report = "\n".join([message, *warnings])
            if target.path not in report or target.name not in report:
                self._tally.fault(UNNAMED, f"{case}: {report[:400]}")
        self._restore(target)

    def _look_artifact(self, target: Target, case: str) -> str | None:
        """A file, or the manifest, of an artifact: verify names it, fetch refuses it, find gives it no more."""
        artifact = self._pristine.artifacts[target.path]
        faults = self._store.verify(artifact)
        if not faults:
            return None
        try:
            folder = self._fresh().fetch(artifact)
        except (ArtifactDamaged, ArtifactMissing) as error:
            message = str(error)
        else:
            self._tally.fault(USED, f"{case}: fetch gave {folder}")
            return "; ".join(faults)
        result = self._fresh().find(artifact.kind, self._pristine.store.manifest(artifact).fingerprint)
        if result is not None:
            self._tally.fault(USED, f"{case}: found again as {result}")
        return message if all(part in message for part in (target.path, target.name)) else "; ".join([message, *faults])

    def _look_checkpoint(self, target: Target, case: str) -> str | None:
        """The newest checkpoint: passed over for the one before."""
        result = self._fresh().latest_checkpoint(self._pristine.run)
        if result is not None and result[0] == self._pristine.steps[1]:
            return None
        if result is None or result[0] != self._pristine.steps[0]:
            self._tally.fault(USED, f"{case}: the older checkpoint was not given, but {result}")
        return "passed over"

    def _look_record(self, target: Target, case: str) -> str | None:
        return _said_by(lambda: load_record(self._fresh(), target.key))

    def _look_pointer(self, target: Target, case: str) -> str | None:
        return _said_by(lambda: self._fresh().pointer(POINTER))

    def _look_beside(self, target: Target, case: str) -> str | None:
        return beside.READ[target.kind](self._fresh(), self._pristine.model)

    def _fresh(self) -> Store:
        """The store as another process sees it that has cached nothing."""
        shutil.rmtree(self._store.cache, ignore_errors=True)
        return self._store

    def _copy_all(self) -> None:
        for key in self._pristine.store.backend.sizes(""):
            self._put(key)

    def _put(self, key: str) -> None:
        local = self._pristine.store.backend.local(key)
        assert local is not None
        self._store.backend.put(local, key)

    def _restore(self, target: Target) -> None:
        """The right bytes again, whatever was done about the wrong ones."""
        if target.path == target.name:
            self._put(target.key)
            return
        for path in (target.path, f"quarantine/{target.path}"):
            self._store.backend.remove(path)
        for name in self._pristine.store.backend.sizes(target.path):
            self._put(f"{target.path}/{name}")


_CHECKS: dict[str, Callable[[Flipper, Target, str], str | None]] = {
    "checkpoint": Flipper._look_checkpoint,
    "checkpoint's manifest": Flipper._look_checkpoint,
    "run record": Flipper._look_record,
    "pointer": Flipper._look_pointer,
    **dict.fromkeys(beside.READ, Flipper._look_beside),
}


def _said_by(work: Callable[[], object]) -> str | None:
    """What the error says; None where there was none."""
    try:
        work()
    except MirageError as error:
        return str(error)
    return None


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What the product's loggers warn of meanwhile."""
    lines: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    ear, loggers = Ear(), [logging.getLogger(name) for name in ("mirage_core", "tasks")]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(ear)
        logger.propagate = False
    try:
        yield lines
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.removeHandler(ear)
            logger.propagate = propagate


def store_beside(folder: Path, url: str) -> Store:
    """A store to damage, with a cache of its own."""
    return Store.open(url, cache=folder / "flips-cache")
