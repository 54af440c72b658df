"""The storage interface of a store, and how a URL is opened as a local folder or an fsspec file system."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from mirage_core.errors import SettingsError
from mirage_core.store.backends import s3
from mirage_core.store.backends.entries import Entry, OnBytes, Unfinished
from mirage_core.store.backends.fsspec import FsspecBackend
from mirage_core.store.backends.local import LocalBackend


class Backend(Protocol):
    """Keys are relative paths with ``/``. A key that does not exist raises FileNotFoundError."""

    @property
    def url(self) -> str:
        """The root, as messages show it."""

    def read(self, key: str) -> bytes: ...

    def write(self, key: str, data: bytes) -> None:
        """Write atomically, replacing an existing file."""

    def create(self, key: str, data: bytes) -> bool:
        """Write atomically only if the key is free; return False if it is taken."""

    def delete_if_unchanged(self, key: str, expected: bytes) -> bool:
        """Delete a small file if it still has the expected content; return whether this call deleted it."""

    def put(self, source: Path, key: str, sha256: str | None = None, on_bytes: OnBytes | None = None) -> None:
        """Upload a file atomically, replacing an existing one; ``sha256`` is its digest, if known."""

    def get(self, key: str, target: Path, on_bytes: OnBytes | None = None, size: int = 0) -> None:
        """Download a file; ``size`` is its size, if known."""

    def copy(self, source: str, key: str, sha256: str | None = None) -> None:
        """Copy a file inside the backend atomically; its bytes do not pass through this process."""

    def has_content(self, key: str, sha256: str) -> bool:
        """Whether the file is known to have that content; False where only a download could tell."""

    def entries(self, prefix: str) -> dict[str, Entry]:
        """Every file below a folder by its name relative to it; empty where the folder does not exist."""

    def sizes(self, prefix: str) -> dict[str, int]:
        """The sizes of ``entries``."""

    def remove(self, key: str) -> None:
        """Remove a file or a folder; a missing one is not an error."""

    def probe(self) -> None:
        """Write a few bytes and remove them; raises what a real write would raise."""

    def unfinished(self) -> list[Unfinished]:
        """Writes that are in progress or were killed: temporary files, multipart uploads."""

    def abort_upload(self, upload: Unfinished) -> None:
        """Remove an unfinished write."""

    def local(self, key: str) -> Path | None:
        """The path on this machine's disk if the backend is a local folder, else None."""


def open_backend(url: str) -> Backend:
    """Open ``/path``, ``~/path``, ``file:///path`` or any fsspec URL (``s3://bucket/prefix``)."""
    if not url.strip():
        raise SettingsError("got an empty store root, expected a folder or a URL such as s3://bucket/prefix")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "file":
        return LocalBackend(Path(rest if separator else url).expanduser().absolute())
    return _fsspec_backend(url.rstrip("/"), scheme)


def _fsspec_backend(url: str, scheme: str) -> FsspecBackend:
    from fsspec.core import url_to_fs

    s3.check_url(url)
    options = s3.connection_options() if scheme in s3.SCHEMES else {"use_listings_cache": False}
    try:
        system, base = url_to_fs(url, **options)
    except (ImportError, ValueError, OSError) as error:
        raise SettingsError(f"the store root {url!r} cannot be opened: {error}") from error
    return FsspecBackend(url, system, base.rstrip("/"))
