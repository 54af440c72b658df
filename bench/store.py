"""The speed of the store on S3: one large file published and fetched through it, compared with plain boto3.

``mirage bench store`` uses the bucket of the given ``s3://`` store (and the AWS_* variables), or a Swift server that it
starts on loopback if the test suite is importable. Both sides run in this process, in an order that alternates from
round to round, and medians of wall times are compared. Nothing is left in the bucket.

- put: ``Store.publish`` of a folder with the file (its sha256, the upload, the checks, the manifest) over
  ``upload_file`` with boto3's own settings.
- get: ``Store.fetch`` into an empty cache (the download, and its sha256 verified) over ``download_file``.

``ratio`` is of throughputs: 1.0 is as fast as boto3, which verifies nothing.
"""

from __future__ import annotations

import importlib
import os
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirage_core.errors import InputError
from mirage_core.store import Store, fingerprint
from mirage_core.types import Artifact

CHUNK = 4 * 2**20
WARM_UP = 1


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: megabytes a second by medians, and our throughput over boto3's."""

    case: str
    megabytes: int
    ratio: float
    ours_mb_s: float
    boto3_mb_s: float
    ours_s: float
    boto3_s: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Round:
    """The seconds of one round, by (case, side)."""

    seconds: dict[tuple[str, str], float]


def measure(url: str, megabytes: int, rounds: int, on_round: Callable[[Round], None]) -> list[Row]:
    """Measure a row for put and one for get; InputError if there is no S3 server to measure."""
    if megabytes < 1 or rounds < 1:
        raise InputError(f"--megabytes is {megabytes} and --rounds {rounds}; both must be 1 or more.")
    with ExitStack() as stack:
        root = url if url.startswith("s3://") else stack.enter_context(own_server())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mirage-bench-store-")))
        bench = Bench(f"{root.rstrip('/')}/bench-{uuid.uuid4().hex[:8]}", folder, megabytes)
        stack.callback(bench.clear)
        done = [bench.round(number) for number in range(WARM_UP)]
        for number in range(WARM_UP, WARM_UP + rounds):
            done.append(bench.round(number))
            on_round(done[-1])
    return [row(case, megabytes, done[WARM_UP:]) for case in ("put", "get")]


def row(case: str, megabytes: int, rounds: list[Round]) -> Row:
    """Return the medians of a case."""
    ours = statistics.median(each.seconds[case, "store"] for each in rounds)
    theirs = statistics.median(each.seconds[case, "boto3"] for each in rounds)
    return Row(
        case=case,
        megabytes=megabytes,
        ratio=round(theirs / ours, 3),
        ours_mb_s=round(megabytes / ours, 1),
        boto3_mb_s=round(megabytes / theirs, 1),
        ours_s=round(ours, 3),
        boto3_s=round(theirs, 3),
        rounds=len(rounds),
    )


class Bench:
    """One file of random bytes, changed a little in each round so that nothing is cached."""

    def __init__(self, root: str, folder: Path, megabytes: int) -> None:
        import boto3

        self.store = Store.open(root, cache=folder / "cache")
        self.bucket, _, self.prefix = root.removeprefix("s3://").partition("/")
        self.client: Any = boto3.client("s3")
        self.folder = folder
        (folder / "out").mkdir()
        self.file = folder / "out" / "model.safetensors"
        with self.file.open("wb") as stream:
            for _ in range(0, megabytes * 10**6, CHUNK):
                stream.write(os.urandom(CHUNK))
            stream.truncate(megabytes * 10**6)

    def round(self, number: int) -> Round:
        """Time both sides of both cases, in an alternating order."""
        sides = [("store", self._ours), ("boto3", self._theirs)]
        times: dict[tuple[str, str], float] = {}
        for name, side in sides if number % 2 else reversed(sides):
            with self.file.open("r+b") as stream:
                stream.write(uuid.uuid4().bytes)
            for case, seconds in side(number):
                times[case, name] = seconds
        return Round(times)

    def clear(self) -> None:
        """Remove everything from the bucket's prefix."""
        self.store.backend.remove("")

    def _ours(self, number: int) -> Iterator[tuple[str, float]]:
        digest = fingerprint("bench", 1, {"round": number}, {})
        artifact: Artifact | None = None

        def put() -> None:
            nonlocal artifact
            artifact = self.store.publish("bench", digest, self.file.parent, summary={}, about={})

        yield "put", timed(put)
        if artifact is None:
            raise AssertionError("publish returned nothing")
        yield "get", timed(lambda: self.store.fetch(artifact))
        shutil.rmtree(self.folder / "cache")
        self.store.remove(artifact)

    def _theirs(self, number: int) -> Iterator[tuple[str, float]]:
        key, back = f"{self.prefix}/boto3/{number}", str(self.folder / "back")
        yield "put", timed(lambda: self.client.upload_file(str(self.file), self.bucket, key))
        yield "get", timed(lambda: self.client.download_file(self.bucket, key, back))
        os.unlink(back)
        self.client.delete_object(Bucket=self.bucket, Key=key)


def timed(work: Callable[[], object]) -> float:
    """Return the wall seconds of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def own_server() -> Iterator[str]:
    """Start a Swift server with a bucket for the context; its address and keys are in the environment meanwhile."""
    checkout = Path(__file__).parents[1]
    if (checkout / "tests" / "servers").is_dir() and str(checkout) not in sys.path:
        sys.path.append(str(checkout))  # the `mirage` command does not put it there; `python -m` does
    try:
        server_type = importlib.import_module("tests.servers.swift").SwiftServer
    except ImportError as error:
        raise InputError(
            f"there is no S3 server to measure against ({error}): give --store s3://bucket/prefix and the AWS_* "
            "variables, or run from a checkout with its development packages, which has one"
        ) from error
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="mirage-bench-swift-") as folder, server_type(Path(folder)) as server:
        os.environ.update(server.environment())
        try:
            yield str(server.bucket())
        finally:
            os.environ.clear()
            os.environ.update(before)
