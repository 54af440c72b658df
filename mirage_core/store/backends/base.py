"""Where bytes lie: a local folder or an fsspec file system, with the same few operations and the same errors."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from mirage_core.errors import SettingsError
from mirage_core.store.backends import s3
from mirage_core.store.backends.entries import Entry, Told, Unfinished
from mirage_core.store.backends.fsspec import RemotePlace
from mirage_core.store.backends.local import LocalPlace


class Place(Protocol):
    """Keys are relative paths with ``/``. A key that is not there raises FileNotFoundError (or is None)."""

    @property
    def url(self) -> str:
        """The root as people name it."""

    def read(self, key: str) -> bytes: ...

    def write(self, key: str, data: bytes) -> None:
        """Write atomically, replacing what is there."""

    def create(self, key: str, data: bytes) -> bool:
        """Write atomically only if the key is free; False if it is taken."""

    def take(self, key: str, expected: bytes) -> bool:
        """Remove a small file if it still has the expected content; whether this call removed it."""

    def put(self, source: Path, key: str, sha256: str | None = None, told: Told | None = None) -> None:
        """Upload a file atomically, replacing what is there; ``sha256`` is what it is known to have."""

    def get(self, key: str, target: Path, told: Told | None = None, size: int = 0) -> None:
        """Download a file; ``size`` is what it is known to have."""

    def copy(self, source: str, key: str, sha256: str | None = None) -> None:
        """Copy a file inside the place atomically, its bytes not passing through this process."""

    def holds(self, key: str, sha256: str) -> bool:
        """Whether the file is known to have that content; False where that cannot be told without reading it over."""

    def entries(self, prefix: str) -> dict[str, Entry]:
        """Every file below a folder, by its name relative to it; empty where the folder is not there."""

    def sizes(self, prefix: str) -> dict[str, int]:
        """The sizes of ``entries``."""

    def remove(self, key: str) -> None:
        """Remove a file or a folder; nothing happens where there is none."""

    def probe(self) -> None:
        """Write something small and remove it; raises what a real write would."""

    def unfinished(self) -> list[Unfinished]:
        """Writes that are under way or were killed: temporary files, multi-part uploads."""

    def abandon(self, upload: Unfinished) -> None:
        """Remove an unfinished write."""

    def local(self, key: str) -> Path | None:
        """The path on this machine's disk, where the place is a local folder."""


def open_place(url: str) -> Place:
    """``/path``, ``~/path``, ``file:///path`` or any fsspec URL (``s3://bucket/prefix``)."""
    if not url.strip():
        raise SettingsError("got an empty store root, expected a folder or a URL such as s3://bucket/prefix")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "file":
        return LocalPlace(Path(rest if separator else url).expanduser().absolute())
    return _remote_place(url.rstrip("/"), scheme)


def _remote_place(url: str, scheme: str) -> RemotePlace:
    from fsspec.core import url_to_fs

    s3.check_url(url)
    options = s3.connection_options() if scheme in s3.SCHEMES else {"use_listings_cache": False}
    try:
        system, base = url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise SettingsError(f"the store root {url!r} cannot be opened: {error}") from error
    return RemotePlace(url, system, base.rstrip("/"))
