"""A store's root on an fsspec file system: S3 in parts and in parallel, any other as its driver does it."""

from __future__ import annotations

import errno
import logging
import math
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mirage_core.store.backends.entries import TEMPORARY, Entry, Told, Unfinished
from mirage_core.store.backends.errors import errors_named
from mirage_core.store.backends.s3 import no_bucket


def multipart_uploads(system: Any, base: str) -> list[Unfinished]:
    """The uploads below ``base`` (bucket/prefix) that are under way or were left, with what has arrived of them."""
    bucket, prefix, _ = system.split_path(base)
    start = f"{prefix}/" if prefix else ""
    found = []
    for upload in _listed(system, bucket, start):
        size, since = _arrived(system, bucket, upload)
        key = str(upload["Key"])[len(start) :]
        found.append(Unfinished(key=key, size=size, since=since, upload=str(upload["UploadId"])))
    return found


def abort_upload(system: Any, path: str, upload: str) -> None:
    """Forget an upload and its parts; nothing happens where it was completed or aborted meanwhile."""
    bucket, key, _ = system.split_path(path)
    with suppress(FileNotFoundError):
        system.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)


def _listed(system: Any, bucket: str, start: str) -> Iterator[dict[str, Any]]:
    marker: dict[str, str] = {}
    while True:
        page = system.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=start, **marker)
        yield from page.get("Uploads", [])
        if not page.get("IsTruncated"):
            return
        marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def _arrived(system: Any, bucket: str, upload: dict[str, Any]) -> tuple[int, float]:
    """Bytes of an upload, and when its newest part arrived (else when it began): a long one is not an old one."""
    size, newest = 0, _seconds(upload["Initiated"])
    marker: dict[str, int] = {}
    with suppress(FileNotFoundError):  # completed while we were listing
        while True:
            page = system.call_s3("list_parts", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"], **marker)
            for part in page.get("Parts", []):
                size += int(part["Size"])
                newest = max(newest, _seconds(part["LastModified"]))
            if not page.get("IsTruncated"):
                break
            marker = {"PartNumberMarker": int(page["NextPartNumberMarker"])}
    return size, newest


def _seconds(written: datetime) -> float:
    return written.timestamp()


logger = logging.getLogger(__name__)
# s3fs holds as many parts in memory as travel at once (192 and 128 MiB a file), so only a few large files travel at
# once. These sizes were the fastest on Swift, of 8 to 64 MiB and 4 to 16 at once; up, fewer requests count for more.
PART_BYTES, PARTS_AT_ONCE = 32 * 2**20, 6
FETCHED_PART_BYTES, FETCHED_AT_ONCE = 16 * 2**20, 8
LARGE_AT_ONCE = 2
MOST_PARTS = 10_000
SHA256 = "sha256"
_LARGE = threading.BoundedSemaphore(LARGE_AT_ONCE)


@dataclass(frozen=True)
class RemotePlace:
    """An fsspec file system. Whole-object writes only: an exception inside ``open(.., 'wb')`` would publish a part."""

    root: str
    system: Any
    base: str

    @property
    def url(self) -> str:
        return self.root

    def read(self, key: str) -> bytes:
        with errors_named(self.url, key):
            return bytes(self.system.cat_file(self._at(key)))

    def write(self, key: str, data: bytes) -> None:
        with errors_named(self.url, key, writing=True):
            self.system.pipe_file(self._at(key), data)

    def create(self, key: str, data: bytes) -> bool:
        with errors_named(self.url, key, writing=True):
            try:
                self.system.pipe_file(self._at(key), data, mode="create")
            except FileExistsError:
                return False
            except (OSError, NotImplementedError) as error:
                if self.system.exists(self._at(key)):  # servers word "it is taken" in several ways
                    return False
                if isinstance(error, OSError) and error.errno != errno.ENOSYS:
                    raise
                logger.warning("%s cannot create conditionally (%s): the last writer of %s wins", self.url, error, key)
                self.system.pipe_file(self._at(key), data)
            return True

    def take(self, key: str, expected: bytes) -> bool:
        """Not atomic: what is written between the look and the removal goes too (S3 has no other way everywhere)."""
        with errors_named(self.url, key, writing=True), suppress(FileNotFoundError):
            if bytes(self.system.cat_file(self._at(key))) == expected:
                self.system.rm_file(self._at(key))
                return True
        return False

    def put(self, source: Path, key: str, sha256: str | None = None, told: Told | None = None) -> None:
        """Upload a file, on S3 in parts and with its sha256 in the object's metadata."""
        options: dict[str, Any] = {}
        with errors_named(self.url, key, writing=True):
            if self.is_s3:
                size = source.stat().st_size
                options = {"chunksize": part_bytes(size), "max_concurrency": PARTS_AT_ONCE}
                if sha256 is not None:
                    options["Metadata"] = {SHA256: sha256}
            with _turn(source.stat().st_size):
                self.system.put_file(str(source), self._at(key), callback=_teller(told), **options)

    def get(self, key: str, target: Path, told: Told | None = None, size: int = 0) -> None:
        """Download a file, on S3 in parts; ``size`` is what it is known to have."""
        options = {"chunksize": FETCHED_PART_BYTES, "max_concurrency": FETCHED_AT_ONCE} if self.is_s3 else {}
        with errors_named(self.url, key), _turn(size):
            self.system.get_file(self._at(key), str(target), callback=_teller(told), **options)

    def copy(self, source: str, key: str, sha256: str | None = None) -> None:
        """Copy on the server; nothing travels through this machine."""
        # S3 copies an object's metadata with it up to 5 GB, and is told it above.
        options = {"Metadata": {SHA256: sha256}} if self.is_s3 and sha256 is not None else {}
        with errors_named(self.url, key):
            self.system.cp_file(self._at(source), self._at(key), **options)

    def holds(self, key: str, sha256: str) -> bool:
        """Whether an object says it has that content: the sha256 recorded when it was uploaded; nothing is read."""
        if not self.is_s3:
            return False
        with errors_named(self.url, key), suppress(FileNotFoundError):
            return bool(self.system.metadata(self._at(key), refresh=True).get(SHA256) == sha256)
        return False

    def entries(self, prefix: str) -> dict[str, Entry]:
        start = self._at(prefix) + "/" if prefix else self.base + "/"
        with errors_named(self.url, prefix):
            try:
                found = self.system.find(start.rstrip("/"), detail=True)
            except FileNotFoundError as error:
                if no_bucket(error):
                    raise
                return {}
        return {name[len(start) :]: _entry(info) for name, info in found.items() if name.startswith(start)}

    def sizes(self, prefix: str) -> dict[str, int]:
        return {name: entry.size for name, entry in self.entries(prefix).items()}

    def remove(self, key: str) -> None:
        with errors_named(self.url, key, writing=True), suppress(FileNotFoundError):
            self.system.rm(self._at(key), recursive=True)

    def probe(self) -> None:
        key = f"{TEMPORARY}/{uuid.uuid4().hex}"
        self.write(key, b"mirage")
        self.remove(key)

    def unfinished(self) -> list[Unfinished]:
        """Probes that were left, and on S3 the multi-part uploads below the root that nobody has completed."""
        left = self.entries(TEMPORARY).items()
        found = [Unfinished(key=f"{TEMPORARY}/{name}", size=e.size, since=e.modified) for name, e in left]
        if self.is_s3:
            # SELF

            with errors_named(self.url, "its unfinished uploads"):
                found += multipart_uploads(self.system, self.base)
        return found

    def abandon(self, upload: Unfinished) -> None:
        if upload.upload is None:
            self.remove(upload.key)
            return
        # SELF

        with errors_named(self.url, upload.key, writing=True):
            abort_upload(self.system, self._at(upload.key), upload.upload)

    def local(self, key: str) -> Path | None:  # noqa: ARG002 (nothing of it is on this disk)
        return None

    @property
    def is_s3(self) -> bool:
        """Whether parts, metadata and copies work as S3 has them."""
        spoken = self.system.protocol
        return "s3" in ((spoken,) if isinstance(spoken, str) else spoken)

    def _at(self, key: str) -> str:
        return f"{self.base}/{key}".rstrip("/")


def part_bytes(size: int) -> int:
    """The size of a part of a file of ``size`` bytes: 32 MiB, or more where that would be too many parts for S3."""
    return max(PART_BYTES, math.ceil(size / MOST_PARTS))


def _turn(size: int) -> AbstractContextManager[object]:
    """Waits where a large file has to, so that not too many parts are in memory."""
    return _LARGE if size >= 2 * PART_BYTES else nullcontext()


def _teller(told: Told | None) -> Any:
    """fsspec's progress, passed on as the bytes that have just travelled."""
    from fsspec.callbacks import Callback

    class Teller(Callback):  # type: ignore[misc, unused-ignore]
        def relative_update(self, inc: int = 1) -> None:
            if told is not None:
                told(inc)

    return Teller()


def _entry(info: Mapping[str, Any]) -> Entry:
    written = info.get("LastModified") or info.get("mtime") or info.get("created")
    if isinstance(written, datetime):
        written = written.timestamp()
    # A file system that tells no time: taken as new, so that nothing is thought old by mistake.
    return Entry(size=int(info["size"]), modified=float(written) if written is not None else time.time())
