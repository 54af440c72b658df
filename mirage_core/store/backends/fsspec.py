"""A store's root on an fsspec file system: S3 in parts and in parallel, others as their driver transfers."""

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

from mirage_core.store.backends.entries import TEMPORARY, Entry, OnBytes, Unfinished
from mirage_core.store.backends.errors import translated_errors
from mirage_core.store.backends.s3 import no_bucket

logger = logging.getLogger(__name__)
# s3fs holds all parts in flight in memory (192 MiB a file up, 128 MiB down), so few large files are transferred at
# once. On Swift these sizes were the fastest of 8 to 64 MiB and 4 to 16 at once; uploads gain most from few requests.
PART_BYTES, PARTS_AT_ONCE = 32 * 2**20, 6
DOWNLOAD_PART_BYTES, DOWNLOAD_PARTS_AT_ONCE = 16 * 2**20, 8
LARGE_FILES_AT_ONCE = 2
MAX_PARTS = 10_000
SHA256_METADATA = "sha256"
_LARGE_FILES = threading.BoundedSemaphore(LARGE_FILES_AT_ONCE)


@dataclass(frozen=True)
class FsspecBackend:
    """An fsspec file system. Writes whole objects: an exception inside ``open(.., 'wb')`` would publish a part."""

    root: str
    system: Any
    base: str

    @property
    def url(self) -> str:
        return self.root

    def read(self, key: str) -> bytes:
        with translated_errors(self.url, key):
            return bytes(self.system.cat_file(self._path(key)))

    def write(self, key: str, data: bytes) -> None:
        with translated_errors(self.url, key, writing=True):
            self.system.pipe_file(self._path(key), data)

    def create(self, key: str, data: bytes) -> bool:
        with translated_errors(self.url, key, writing=True):
            try:
                self.system.pipe_file(self._path(key), data, mode="create")
            except FileExistsError:
                return False
            except (OSError, NotImplementedError) as error:
                if self.system.exists(self._path(key)):  # servers report a taken key in different ways
                    return False
                if isinstance(error, OSError) and error.errno != errno.ENOSYS:
                    raise
                logger.warning("%s cannot create conditionally (%s): the last writer of %s wins", self.url, error, key)
                self.system.pipe_file(self._path(key), data)
            return True

    def delete_if_unchanged(self, key: str, expected: bytes) -> bool:
        """Not atomic: a write between the check and the deletion is lost, too (not every S3 server can do better)."""
        with translated_errors(self.url, key, writing=True), suppress(FileNotFoundError):
            if bytes(self.system.cat_file(self._path(key))) == expected:
                self.system.rm_file(self._path(key))
                return True
        return False

    def put(self, source: Path, key: str, sha256: str | None = None, on_bytes: OnBytes | None = None) -> None:
        """Upload a file; on S3 in parts and with its sha256 in the object's metadata."""
        options: dict[str, Any] = {}
        with translated_errors(self.url, key, writing=True):
            if self.is_s3:
                size = source.stat().st_size
                options = {"chunksize": part_bytes(size), "max_concurrency": PARTS_AT_ONCE}
                if sha256 is not None:
                    options["Metadata"] = {SHA256_METADATA: sha256}
            with _large_file_slot(source.stat().st_size):
                self.system.put_file(str(source), self._path(key), callback=_fsspec_callback(on_bytes), **options)

    def get(self, key: str, target: Path, on_bytes: OnBytes | None = None, size: int = 0) -> None:
        """Download a file, on S3 in parts; large ones (by ``size``) wait for their turn."""
        options = {"chunksize": DOWNLOAD_PART_BYTES, "max_concurrency": DOWNLOAD_PARTS_AT_ONCE} if self.is_s3 else {}
        with translated_errors(self.url, key), _large_file_slot(size):
            self.system.get_file(self._path(key), str(target), callback=_fsspec_callback(on_bytes), **options)

    def copy(self, source: str, key: str, sha256: str | None = None) -> None:
        """Copy on the server; no bytes pass through this machine."""
        # S3 copies metadata only up to 5 GB; above, it must be given.
        options = {"Metadata": {SHA256_METADATA: sha256}} if self.is_s3 and sha256 is not None else {}
        with translated_errors(self.url, key):
            self.system.cp_file(self._path(source), self._path(key), **options)

    def has_content(self, key: str, sha256: str) -> bool:
        """Whether an object's metadata has that sha256, recorded at its upload; no content is read."""
        if not self.is_s3:
            return False
        with translated_errors(self.url, key), suppress(FileNotFoundError):
            return bool(self.system.metadata(self._path(key), refresh=True).get(SHA256_METADATA) == sha256)
        return False

    def entries(self, prefix: str) -> dict[str, Entry]:
        start = self._path(prefix) + "/" if prefix else self.base + "/"
        with translated_errors(self.url, prefix):
            try:
                infos = self.system.find(start.rstrip("/"), detail=True)
            except FileNotFoundError as error:
                if no_bucket(error):
                    raise
                return {}
        return {name[len(start) :]: _entry(info) for name, info in infos.items() if name.startswith(start)}

    def sizes(self, prefix: str) -> dict[str, int]:
        return {name: entry.size for name, entry in self.entries(prefix).items()}

    def remove(self, key: str) -> None:
        with translated_errors(self.url, key, writing=True), suppress(FileNotFoundError):
            self.system.rm(self._path(key), recursive=True)

    def probe(self) -> None:
        key = f"{TEMPORARY}/{uuid.uuid4().hex}"
        self.write(key, b"mirage")
        self.remove(key)

    def unfinished(self) -> list[Unfinished]:
        """Leftover probes and, on S3, the multipart uploads below the root that were never completed."""
        probes = self.entries(TEMPORARY).items()
        unfinished = [Unfinished(key=f"{TEMPORARY}/{name}", size=e.size, since=e.modified) for name, e in probes]
        if self.is_s3:
            with translated_errors(self.url, "its unfinished uploads"):
                unfinished += list_multipart(self.system, self.base)
        return unfinished

    def abort_upload(self, upload: Unfinished) -> None:
        if upload.upload is None:
            self.remove(upload.key)
            return
        with translated_errors(self.url, upload.key, writing=True):
            abort_multipart(self.system, self._path(upload.key), upload.upload)

    def local(self, key: str) -> Path | None:  # noqa: ARG002 (no file of it is on this disk)
        return None

    @property
    def is_s3(self) -> bool:
        """Whether the file system takes S3's options for parts and metadata."""
        protocol = self.system.protocol
        return "s3" in ((protocol,) if isinstance(protocol, str) else protocol)

    def _path(self, key: str) -> str:
        return f"{self.base}/{key}".rstrip("/")


def part_bytes(size: int) -> int:
    """The part size for a file of ``size`` bytes: 32 MiB, or more where S3 would get too many parts."""
    return max(PART_BYTES, math.ceil(size / MAX_PARTS))


def _large_file_slot(size: int) -> AbstractContextManager[object]:
    """A context that limits how many large files are transferred at once, so that few parts are in memory."""
    return _LARGE_FILES if size >= 2 * PART_BYTES else nullcontext()


def _fsspec_callback(on_bytes: OnBytes | None) -> Any:
    """fsspec's callback that passes the number of bytes just transferred on to ``on_bytes``."""
    from fsspec.callbacks import Callback

    class BytesCallback(Callback):  # type: ignore[misc, unused-ignore]
        def relative_update(self, inc: int = 1) -> None:
            if on_bytes is not None:
                on_bytes(inc)

    return BytesCallback()


def _entry(info: Mapping[str, Any]) -> Entry:
    modified = info.get("LastModified") or info.get("mtime") or info.get("created")
    if isinstance(modified, datetime):
        modified = modified.timestamp()
    # Without a time a file counts as new, so that it is never collected by mistake.
    return Entry(size=int(info["size"]), modified=float(modified) if modified is not None else time.time())


def list_multipart(system: Any, base: str) -> list[Unfinished]:
    """The uploads below ``base`` (bucket/prefix) that are in progress or were killed, with the bytes so far."""
    bucket, prefix, _ = system.split_path(base)
    start = f"{prefix}/" if prefix else ""
    unfinished = []
    for upload in _uploads(system, bucket, start):
        size, since = _arrived(system, bucket, upload)
        key = str(upload["Key"])[len(start) :]
        unfinished.append(Unfinished(key=key, size=size, since=since, upload=str(upload["UploadId"])))
    return unfinished


def abort_multipart(system: Any, path: str, upload: str) -> None:
    """Abort an upload and drop its parts; one that was completed or aborted meanwhile is not an error."""
    bucket, key, _ = system.split_path(path)
    with suppress(FileNotFoundError):
        system.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload)


def _uploads(system: Any, bucket: str, start: str) -> Iterator[dict[str, Any]]:
    marker: dict[str, str] = {}
    while True:
        page = system.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=start, **marker)
        yield from page.get("Uploads", [])
        if not page.get("IsTruncated"):
            return
        marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def _arrived(system: Any, bucket: str, upload: dict[str, Any]) -> tuple[int, float]:
    """The bytes of an upload and the time of its newest part (else of its start): a long upload is not an old one."""
    size, newest = 0, upload["Initiated"].timestamp()
    marker: dict[str, int] = {}
    with suppress(FileNotFoundError):  # completed during the listing
        while True:
            page = system.call_s3("list_parts", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"], **marker)
            for part in page.get("Parts", []):
                size += int(part["Size"])
                newest = max(newest, part["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                break
            marker = {"PartNumberMarker": int(page["NextPartNumberMarker"])}
    return size, newest
