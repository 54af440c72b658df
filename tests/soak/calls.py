"""Part "calls": the store's operations over a bad line to S3. Right or a clear error, never something in between."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirage_core.errors import ArtifactDamaged, ArtifactMissing, MirageError
from mirage_core.pipeline.run_record import new_record
from mirage_core.store import Store, fingerprint
from mirage_core.store.backends.base import FsspecBackend, open_backend
from mirage_core.types import Artifact
from tests.servers.swift import SwiftServer
from tests.soak import audit as audits
from tests.soak.bad_line import BadLine
from tests.soak.counts import Tally

FALSE = "false successes"
BYTES = "wrong bytes or answers"
ACCUSED = "good artifacts called damaged or missing"
UNCLEAR = "errors of another kind than the store's"
WRONGS = (FALSE, BYTES, ACCUSED, UNCLEAR, *audits.WRONGS)
RATES = {0.1: 1, 0.5: 2, 0.9: 4}
"""Rates of errors, and what part of the operations is done at each: most of one's time is patience at a high rate."""
GARBLED, SLOW = 0.002, 0.05
READ_TIMEOUT_S = 3
WORKERS = 8
Advance = Callable[[int], None]
LARGE = 40 * 2**20  # travels in parts


@dataclass(frozen=True)
class Work:
    """What the clients of one rate of errors are told: ``each`` operations a client, everything drawn from ``seed``."""

    server: SwiftServer
    url: str
    rate: float
    each: int
    seed: int
    folder: Path


def run_calls(work: Work, tally: Tally, advance: Advance) -> None:
    """All clients at once, then a look at all they have stored."""
    known: dict[str, str] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for made in pool.map(lambda who: run_client(work, who, tally, advance), range(WORKERS)):
            known.update(made)
    audits.audit(store_at(work.url, work.server.url, work.folder / "clean"), known, tally, "at the end")


def store_at(url: str, endpoint: str, cache: Path, read_timeout: float | None = None) -> Store:
    """The product's own store, its options of connection included, but at that endpoint (and less patient)."""
    backend = open_backend(url)
    assert isinstance(backend, FsspecBackend)
    options = dict(backend.system.storage_options)
    config = dict(options.pop("config_kwargs", {}))
    if read_timeout is not None:
        config["read_timeout"] = read_timeout
    system = type(backend.system)(**options, config_kwargs=config, endpoint_url=endpoint, skip_instance_cache=True)
    for name in ("retries",):  # set on the instance, not among the options
        if hasattr(backend.system, name):
            setattr(system, name, getattr(backend.system, name))
    return Store(dataclasses.replace(backend, system=system), cache)


def run_client(work: Work, who: int, tally: Tally, advance: Advance) -> dict[str, str]:
    """One client's operations, one after the other; the artifacts it was told are stored (path to digest)."""
    seed, folder = f"{work.seed}-{who}", work.folder / str(who)
    with BadLine(work.server.url, seed) as line:
        flaky = store_at(work.url, line.url, folder / "cache", READ_TIMEOUT_S)
        clean = store_at(work.url, work.server.url, folder / "clean")
        client = Client(flaky, clean, line, random.Random(seed), folder, tally, f"kind-{seed}")
        client.prepare()
        line.rate, line.garbled, line.slow = work.rate, GARBLED, SLOW
        for name in itertools.islice(client.names(), work.each):
            client.do(name)
            advance(1)
        tally.count("calls to the server", line.calls)
        for fault, count in line.faults.items():
            tally.count(f"calls with fault: {fault}", count)
        return {artifact.path: artifact.digest for artifact in client.known}


class Client:
    """A user of the store behind a bad line (``flaky``), and what it should see (``clean``)."""

    def __init__(
        self, flaky: Store, clean: Store, line: BadLine, chance: random.Random, folder: Path, tally: Tally, kind: str
    ) -> None:
        self._flaky, self._clean, self._line, self._chance = flaky, clean, line, chance
        self._folder, self._tally, self._kind = folder, tally, kind
        self._number = itertools.count(1)
        self._run = fingerprint(kind, 1, {}, {})
        self._checkpoints: dict[int, str] = {}  # steps that may be the newest good one
        self._sure = 0  # the newest step whose saving was reported as done
        self._records: dict[str, list[Any]] = {}  # what each may hold
        self.known: list[Artifact] = []

    def names(self) -> Iterator[str]:
        """The operations in a drawn order, each as often as the others."""
        names = ["publish", "fetch", "save a checkpoint", "load a checkpoint", "write a record", "read a record"]
        names += ["find", "find nothing", "list"]
        while True:
            yield from self._chance.sample(names, len(names))

    def prepare(self) -> None:
        """Something of everything, while the line is good."""
        for name in ("publish", "save a checkpoint", "write a record"):
            self.do(name, counted=False)

    def do(self, name: str, *, counted: bool = True) -> None:
        """One operation, judged."""
        faults, started = self._faults(), time.monotonic()
        operation = getattr(self, f"_{name.replace(' ', '_')}")
        try:
            operation()
            result = "right" if self._faults() == faults else "right in spite of faults"
        except MirageError as error:
            result = f"error: {type(error).__name__}"
            if isinstance(error, ArtifactDamaged | ArtifactMissing):
                self._tally.fault(ACCUSED, f"{name}: {error}")
        except Wrong as error:
            result = "wrong"
            self._tally.fault(error.args[0], f"{name}: {error.args[1]}")
        except Exception as error:
            result = "unclear"
            self._tally.fault(UNCLEAR, f"{name}: {type(error).__name__}: {error}")
        if counted:
            self._tally.count(f"{name}: {result}")
            self._tally.most("slowest operation, seconds", round(time.monotonic() - started, 1))

    def _faults(self) -> int:
        return sum(count for fault, count in self._line.faults.items() if fault != "slow")

    def _publish(self) -> None:
        mark = f"{self._kind} {next(self._number)}"
        identified = fingerprint(self._kind, 1, mark, {})
        with self._filled(mark, large=self._chance.random() < 0.05) as (source, right):
            try:
                artifact = self._flaky.publish(self._kind, identified, source, summary={"mark": mark}, about={})
            finally:
                seen = self._clean.find(self._kind, identified)
                if seen is not None and self._clean.verify(seen):
                    raise Wrong(audits.HALF, f"{mark}: {self._clean.verify(seen)}")
        if seen is None or seen.digest != artifact.digest:
            raise Wrong(FALSE, f"{mark}: published, and the store holds {seen}")
        if right != contents(self._clean.fetch(seen)):
            raise Wrong(BYTES, f"{mark}: other contents than were published")
        self.known.append(artifact)

    def _fetch(self) -> None:
        artifact = self._chance.choice(self.known)
        shutil.rmtree(self._flaky.cache, ignore_errors=True)
        mark = artifact.summary["mark"]
        if contents(self._flaky.fetch(artifact))["mark"] != digest(mark.encode()):
            raise Wrong(BYTES, f"{mark}: other bytes than were published")

    def _save_a_checkpoint(self) -> None:
        step = next(self._number)
        with self._filled(f"{self._kind} step {step}") as (source, right):
            self._checkpoints[step] = right["mark"]
            self._flaky.save_checkpoint(self._run, step, source)
        self._sure = step
        self._newest(self._clean, FALSE)

    def _load_a_checkpoint(self) -> None:
        shutil.rmtree(self._flaky.cache, ignore_errors=True)
        self._newest(self._flaky, BYTES)

    def _newest(self, store: Store, wrong: str) -> None:
        result = store.latest_checkpoint(self._run)
        if result is None or result[0] < self._sure:
            raise Wrong(wrong, f"step {self._sure} was saved, the newest is {result}")
        if contents(result[1])["mark"] != self._checkpoints[result[0]]:
            raise Wrong(BYTES, f"step {result[0]} holds the state of another one")

    def _write_a_record(self) -> None:
        name = f"runs/{self._kind}-{self._chance.randrange(3)}.json"
        value = new_record("micro", {"mark": next(self._number), "text": "x" * 2000}).model_dump(mode="json")
        self._records.setdefault(name, []).append(value)
        self._flaky.write_json(name, value)
        seen = self._clean.read_json(name)
        if seen != value:
            raise Wrong(FALSE, f"{name} holds {str(seen)[:80]}")
        self._records[name] = [value]

    def _read_a_record(self) -> None:
        name = self._chance.choice(list(self._records))
        try:
            seen = self._flaky.read_json(name)
        except ArtifactMissing:
            if any(record == name for record in self._clean.names("runs")):
                raise
            return  # was never written
        if seen not in self._records[name]:
            raise Wrong(BYTES, f"{name} holds {str(seen)[:80]}")

    def _find(self) -> None:
        artifact = self._chance.choice(self.known)
        identified = self._clean.manifest(artifact).fingerprint
        result = self._flaky.find(artifact.kind, identified)
        if result != artifact:
            raise Wrong(BYTES, f"{artifact.path} is there, found was {result}")

    def _find_nothing(self) -> None:
        result = self._flaky.find(self._kind, fingerprint(self._kind, 1, "never published", {}))
        if result is not None:
            raise Wrong(BYTES, f"nothing is there, found was {result}")

    def _list(self) -> None:
        listed = {artifact.path for artifact in self._flaky.list(self._kind)}
        for artifact in self.known:
            if artifact.path not in listed:
                raise Wrong(BYTES, f"{artifact.path} is there, and not in the list")

    @contextmanager
    def _filled(self, mark: str, *, large: bool = False) -> Iterator[tuple[Path, dict[str, str]]]:
        """A folder of three files that say ``mark``, and their digests."""
        source = self._folder / "source"
        shutil.rmtree(source, ignore_errors=True)
        (source / "sub").mkdir(parents=True)
        (source / "mark").write_text(mark)
        block = random.Random(mark).randbytes(150_000)
        (source / "sub" / "block").write_bytes(block * (LARGE // len(block) if large else 1))
        (source / "note").write_text(mark * 100)
        yield source, contents(source)


class Wrong(Exception):
    """(which count, what happened)"""


def contents(folder: Path) -> dict[str, str]:
    """The digests of a folder's files by name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): digest(path.read_bytes()) for path in files}


def digest(data: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(data).hexdigest()
