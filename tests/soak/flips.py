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
from mirage_core.store.artifact_folder import read_sealed
from mirage_core.store.manifest import MANIFEST
from mirage_core.types import Artifact
from tests.soak import beside
from tests.soak.counts import Tally
from tests.soak.road import Road

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
    """A complete store on this disk, with two checkpoints and all that lies beside a road, never damaged itself.

    ``run`` and ``steps``: of the checkpoints; ``model``: what the pointer and the result record name.
    """

    store: Store
    artifacts: dict[str, Artifact]
    targets: dict[str, list[Target]]
    run: str
    steps: tuple[int, int]
    model: Artifact

    @classmethod
    def of(cls, road: Road) -> Pristine:
        """What an undisturbed road left, the last checkpoints of its last training, and what is put beside."""
        store = road.store()
        model = store.get(next(s.path or "" for s in _record(store).stages if s.name == "relaxation"))
        beside.put_beside(store, model)
        artifacts = {artifact.path: artifact for artifact in store.list()}
        run = store.manifest(model).fingerprint
        kept = sorted(path for path in road.kept.iterdir() if path.name.startswith("relaxation-"))[-2:]
        steps = (int(kept[0].name.split("-")[1]), int(kept[1].name.split("-")[1]))
        for step, folder in zip(steps, kept, strict=True):
            store.save_checkpoint(run, step, folder)
        store.point(POINTER, model)
        return cls(store, artifacts, _targets(store, artifacts, run, steps[1]), run, steps, model)


def _record(store: Store) -> RunRecord:
    return load_record(store, max(store.names("runs/")))


def _targets(store: Store, artifacts: dict[str, Artifact], run: str, step: int) -> dict[str, list[Target]]:
    found: dict[str, list[Target]] = {}

    def add(kind: str, path: str, name: str, key: str) -> None:
        found.setdefault(kind, []).append(Target(kind, path, name, key, store.place.read(key)))

    for path, artifact in artifacts.items():
        manifest = store.manifest(artifact)
        add("manifest", path, MANIFEST, f"{path}/{MANIFEST}")
        for entry in manifest.files:
            add(artifact.kind, path, entry.name, f"{path}/{manifest.folder}/{entry.name}")
    path = f"checkpoints/{run[:20]}/{step:08d}"
    manifest = read_sealed(store.place, path)
    add("checkpoint's manifest", path, MANIFEST, f"{path}/{MANIFEST}")
    for entry in manifest.files:
        add("checkpoint", path, entry.name, f"{path}/{manifest.folder}/{entry.name}")
    for name in store.names("runs"):
        add("run record", name, name, name)
    add("pointer", f"pointers/{POINTER}.json", f"pointers/{POINTER}.json", f"pointers/{POINTER}.json")
    for kind, files in beside.keys(store).items():
        for name, key in files:
            add(kind, name, name, key)
    return found


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
            self._one(target)
            advance(1)

    def rerun(self, road: Road, reruns: int, advance: Callable[[int], None]) -> None:
        """Damage, notice, walk the road again: the damaged artifact comes back with its digest, alone."""
        made = {a.kind for a in self._pristine.artifacts.values()} - {SHARD}  # no stage of a road that is done
        kinds = [kind for kind in sorted(self._pristine.targets) if kind in made]
        for number in range(reruns):
            target = self._chance.choice(self._pristine.targets[kinds[number % len(kinds)]])
            artifact = self._pristine.artifacts[target.path]
            data, how = damaged(target.data, self._chance)
            self._store.place.write(target.key, data)
            with suppress(MirageError):
                self._fresh().fetch(artifact)
            self._walk_again(road, artifact, f"{target.key}, {how}")
            self._restore(target)
            advance(1)

    def _walk_again(self, road: Road, artifact: Artifact, case: str) -> None:
        with road:
            if road.start().wait(timeout=600):
                raise AssertionError(f"the road failed after {case}: {road.said.read_text()[-3000:]}")
        self._tally.count(f"stages run again: {artifact.kind}")
        for line in _record(road.store()).stages:
            before = next(s for s in _record(self._pristine.store).stages if s.name == line.name)
            if line.digest != before.digest:
                self._tally.fault(WRONG, f"{case}: {line.name} has {line.digest}, had {before.digest}")
            if (line.path == artifact.path) == line.cached:
                self._tally.fault(MORE, f"{case}: {line.name} was {line.state}")

    def _one(self, target: Target) -> None:
        data, how = damaged(target.data, self._chance)
        case = f"{target.key}, {how}"
        self._store.place.write(target.key, data)
        self._tally.count(f"damaged: {target.kind}")
        self._tally.count("truncations" if how.startswith("cut") else "bit flips")
        look = _LOOKS.get(target.kind, Flipper._look_artifact)
        with _heard() as warnings:
            said = look(self, target, case)
        if said is None:
            self._tally.fault(UNNOTICED, case)
        else:
            told = "\n".join([said, *warnings])
            if target.path not in told or target.name not in told:
                self._tally.fault(UNNAMED, f"{case}: {told[:400]}")
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
            said = str(error)
        else:
            self._tally.fault(USED, f"{case}: fetch gave {folder}")
            return "; ".join(faults)
        found = self._fresh().find(artifact.kind, self._pristine.store.manifest(artifact).fingerprint)
        if found is not None:
            self._tally.fault(USED, f"{case}: found again as {found}")
        return said if all(part in said for part in (target.path, target.name)) else "; ".join([said, *faults])

    def _look_checkpoint(self, target: Target, case: str) -> str | None:
        """The newest checkpoint: passed over for the one before."""
        found = self._fresh().latest_checkpoint(self._pristine.run)
        if found is not None and found[0] == self._pristine.steps[1]:
            return None
        if found is None or found[0] != self._pristine.steps[0]:
            self._tally.fault(USED, f"{case}: the older checkpoint was not given, but {found}")
        return "passed over"

    def _look_record(self, target: Target, case: str) -> str | None:
        return _said_by(lambda: load_record(self._fresh(), target.key))

    def _look_pointer(self, target: Target, case: str) -> str | None:
        return _said_by(lambda: self._fresh().pointed(POINTER))

    def _look_beside(self, target: Target, case: str) -> str | None:
        return beside.READ[target.kind](self._fresh(), self._pristine.model)

    def _fresh(self) -> Store:
        """The store as another process sees it that has cached nothing."""
        shutil.rmtree(self._store.cache, ignore_errors=True)
        return self._store

    def _copy_all(self) -> None:
        for key in self._pristine.store.place.sizes(""):
            self._put(key)

    def _put(self, key: str) -> None:
        local = self._pristine.store.place.local(key)
        assert local is not None
        self._store.place.put(local, key)

    def _restore(self, target: Target) -> None:
        """The right bytes again, whatever was done about the wrong ones."""
        if target.path == target.name:
            self._put(target.key)
            return
        for path in (target.path, f"quarantine/{target.path}"):
            self._store.place.remove(path)
        for name in self._pristine.store.place.sizes(target.path):
            self._put(f"{target.path}/{name}")


_LOOKS: dict[str, Callable[[Flipper, Target, str], str | None]] = {
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
