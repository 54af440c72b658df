"""A store's root in a folder of this machine: every write goes to a temporary file first, then to its name."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirage_core.store.backends.entries import TEMPORARY, Entry, OnBytes, Unfinished
from mirage_core.store.backends.errors import translated_errors
from mirage_core.store.digests import file_sha256

LEFTOVER_S = 24 * 3600
# A file system without hard links, a link across two of them, too many links to one file.
_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class LocalBackend:
    """A folder on this machine. Writes go to a temporary file first, then ``os.replace``."""

    root: Path

    @property
    def url(self) -> str:
        return str(self.root)

    def read(self, key: str) -> bytes:
        with translated_errors(self.url, key):
            return (self.root / key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        with translated_errors(self.url, key, writing=True), self.temporary_file() as temporary:
            temporary.write_bytes(data)
            os.replace(temporary, self._prepared(key))

    def create(self, key: str, data: bytes) -> bool:
        with translated_errors(self.url, key, writing=True), self.temporary_file() as temporary:
            temporary.write_bytes(data)
            return self._link(temporary, key)

    def delete_if_unchanged(self, key: str, expected: bytes) -> bool:
        path = self.root / key
        with translated_errors(self.url, key, writing=True), self.temporary_file() as temporary:
            try:
                if path.read_bytes() != expected:
                    return False
                os.rename(path, temporary)  # only one process succeeds
            except FileNotFoundError:
                return False
            if temporary.read_bytes() == expected:
                return True
            self._link(temporary, key)  # replaced since it was read: restore it
            return False

    def put(self, source: Path, key: str, sha256: str | None = None, on_bytes: OnBytes | None = None) -> None:  # noqa: ARG002
        with translated_errors(self.url, key, writing=True), self.temporary_file() as temporary:
            shutil.copyfile(source, temporary)
            if on_bytes is not None:
                on_bytes(temporary.stat().st_size)
            os.replace(temporary, self._prepared(key))

    def get(self, key: str, target: Path, on_bytes: OnBytes | None = None, size: int = 0) -> None:  # noqa: ARG002
        with translated_errors(self.url, key):
            shutil.copyfile(self.root / key, target)
            if on_bytes is not None:
                on_bytes(target.stat().st_size)

    def copy(self, source: str, key: str, sha256: str | None = None) -> None:  # noqa: ARG002
        """Give the same bytes another name: a hard link, or a copy where the file system has no links."""
        with translated_errors(self.url, key), self.temporary_file() as temporary:
            try:
                os.link(self.root / source, temporary)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                shutil.copyfile(self.root / source, temporary)
            os.replace(temporary, self._prepared(key))

    def has_content(self, key: str, sha256: str) -> bool:
        """Whether a file has that content; reads its bytes."""
        with translated_errors(self.url, key), suppress(FileNotFoundError):
            return file_sha256(self.root / key) == sha256
        return False

    def entries(self, prefix: str) -> dict[str, Entry]:
        folder = self.root / prefix
        entries: dict[str, Entry] = {}
        with translated_errors(self.url, prefix):
            for parent, _, names in os.walk(folder, onerror=_ignore_missing):
                for name in names:
                    with suppress(FileNotFoundError):  # removed during the listing
                        entries[Path(parent, name).relative_to(folder).as_posix()] = _entry(Path(parent, name))
        return {name: entry for name, entry in entries.items() if not name.startswith(f"{TEMPORARY}/")}

    def sizes(self, prefix: str) -> dict[str, int]:
        return {name: entry.size for name, entry in self.entries(prefix).items()}

    def remove(self, key: str) -> None:
        path = self.root / key
        with translated_errors(self.url, key, writing=True), suppress(FileNotFoundError):
            shutil.rmtree(path, onerror=_ignore_removed) if path.is_dir() else path.unlink()

    def probe(self) -> None:
        with translated_errors(self.url, "a probe", writing=True), self.temporary_file() as temporary:
            temporary.write_bytes(b"mirage")
        self.clear_leftovers()

    def clear_leftovers(self) -> None:
        """Remove the temporary files that killed writers left a day ago or earlier."""
        for leftover in self.unfinished():
            if time.time() - leftover.since > LEFTOVER_S:
                self.abort_upload(leftover)

    def unfinished(self) -> list[Unfinished]:
        """The temporary files of writers that are at work or were killed."""
        unfinished = []
        with translated_errors(self.url, TEMPORARY), suppress(FileNotFoundError):
            for path in sorted((self.root / TEMPORARY).iterdir()):
                with suppress(FileNotFoundError):
                    entry = _entry(path)
                    key = f"{TEMPORARY}/{path.name}"
                    unfinished.append(Unfinished(key=key, size=entry.size, since=entry.modified))
        return unfinished

    def abort_upload(self, upload: Unfinished) -> None:
        self.remove(upload.key)

    def local(self, key: str) -> Path | None:
        return self.root / key

    @contextmanager
    def temporary_file(self) -> Iterator[Path]:
        """A new file name on the same disk, outside every artifact; the file is removed at the end."""
        folder = self.root / TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / uuid.uuid4().hex
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _prepared(self, key: str) -> Path:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _link(self, temporary: Path, key: str) -> bool:
        try:
            os.link(temporary, self._prepared(key))  # unlike replace, fails where the name is taken
        except FileExistsError:
            return False
        return True


def _entry(path: Path) -> Entry:
    status = path.stat()
    return Entry(size=status.st_size, modified=status.st_mtime)


def _ignore_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _ignore_removed(_function: Any, _path: str, caught: Any) -> None:
    """Accept that another process has removed the same file."""
    _ignore_missing(caught[1])
