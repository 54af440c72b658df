"""Multi-part uploads that were begun on S3 and never completed: found, and aborted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from mirage_core.store.entries import Unfinished


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
