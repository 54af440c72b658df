"""A store's root in a folder of this machine: every write goes to a temporary file first, then into its name."""

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

from mirage_core.store.backends.entries import TEMPORARY, Entry, Told, Unfinished
from mirage_core.store.backends.errors import errors_named
from mirage_core.store.digests import file_sha256

LEFTOVER_S = 24 * 3600
# A file system without hard links, a link across two of them, too many links to one file.
_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class LocalPlace:
    """A folder on this machine. Writes go to a temporary file first, then ``os.replace``."""

    root: Path

    @property
    def url(self) -> str:
        return str(self.root)

    def read(self, key: str) -> bytes:
        with errors_named(self.url, key):
            return (self.root / key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        with errors_named(self.url, key, writing=True), self.fresh() as fresh:
            fresh.write_bytes(data)
            os.replace(fresh, self._ready(key))

    def create(self, key: str, data: bytes) -> bool:
        with errors_named(self.url, key, writing=True), self.fresh() as fresh:
            fresh.write_bytes(data)
            return self._linked(fresh, key)

    def take(self, key: str, expected: bytes) -> bool:
        path = self.root / key
        with errors_named(self.url, key, writing=True), self.fresh() as fresh:
            try:
                if path.read_bytes() != expected:
                    return False
                os.rename(path, fresh)  # whoever gets it is alone with it
            except FileNotFoundError:
                return False
            if fresh.read_bytes() == expected:
                return True
            self._linked(fresh, key)  # replaced in between: it goes back
            return False

    def put(self, source: Path, key: str, sha256: str | None = None, told: Told | None = None) -> None:  # noqa: ARG002
        with errors_named(self.url, key, writing=True), self.fresh() as fresh:
            shutil.copyfile(source, fresh)
            if told is not None:
                told(fresh.stat().st_size)
            os.replace(fresh, self._ready(key))

    def get(self, key: str, target: Path, told: Told | None = None, size: int = 0) -> None:  # noqa: ARG002
        with errors_named(self.url, key):
            shutil.copyfile(self.root / key, target)
            if told is not None:
                told(target.stat().st_size)

    def copy(self, source: str, key: str, sha256: str | None = None) -> None:  # noqa: ARG002
        """Another name of the same bytes: a hard link, or a copy where the file system has none."""
        with errors_named(self.url, key), self.fresh() as fresh:
            try:
                os.link(self.root / source, fresh)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                shutil.copyfile(self.root / source, fresh)
            os.replace(fresh, self._ready(key))

    def holds(self, key: str, sha256: str) -> bool:
        """Whether a file has that content; its bytes are read."""
        with errors_named(self.url, key), suppress(FileNotFoundError):
            return file_sha256(self.root / key) == sha256
        return False

    def entries(self, prefix: str) -> dict[str, Entry]:
        folder = self.root / prefix
        found: dict[str, Entry] = {}
        with errors_named(self.url, prefix):
            for at, _, names in os.walk(folder, onerror=_unless_gone):
                for name in names:
                    with suppress(FileNotFoundError):  # removed while we were listing
                        found[Path(at, name).relative_to(folder).as_posix()] = _entry(Path(at, name))
        return {name: entry for name, entry in found.items() if not name.startswith(f"{TEMPORARY}/")}

    def sizes(self, prefix: str) -> dict[str, int]:
        return {name: entry.size for name, entry in self.entries(prefix).items()}

    def remove(self, key: str) -> None:
        path = self.root / key
        with errors_named(self.url, key, writing=True), suppress(FileNotFoundError):
            shutil.rmtree(path, onerror=_unless_removed) if path.is_dir() else path.unlink()

    def probe(self) -> None:
        with errors_named(self.url, "a probe", writing=True), self.fresh() as fresh:
            fresh.write_bytes(b"mirage")
        self.clear_leftovers()

    def clear_leftovers(self) -> None:
        """Remove the temporary files that writers left a day ago or earlier when they were killed."""
        for left in self.unfinished():
            if time.time() - left.since > LEFTOVER_S:
                self.abandon(left)

    def unfinished(self) -> list[Unfinished]:
        """Temporary files of writers that are at work or were killed."""
        found = []
        with errors_named(self.url, TEMPORARY), suppress(FileNotFoundError):
            for path in sorted((self.root / TEMPORARY).iterdir()):
                with suppress(FileNotFoundError):
                    entry = _entry(path)
                    key = f"{TEMPORARY}/{path.name}"
                    found.append(Unfinished(key=key, size=entry.size, since=entry.modified))
        return found

    def abandon(self, upload: Unfinished) -> None:
        self.remove(upload.key)

    def local(self, key: str) -> Path | None:
        return self.root / key

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """A new name on the same disk, outside every artifact, gone afterwards."""
        folder = self.root / TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / uuid.uuid4().hex
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _ready(self, key: str) -> Path:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _linked(self, fresh: Path, key: str) -> bool:
        try:
            os.link(fresh, self._ready(key))  # fails where the name is taken, unlike replace
        except FileExistsError:
            return False
        return True


def _entry(path: Path) -> Entry:
    status = path.stat()
    return Entry(size=status.st_size, modified=status.st_mtime)


def _unless_gone(problem: OSError) -> None:
    if not isinstance(problem, FileNotFoundError):
        raise problem


def _unless_removed(_function: Any, _path: str, caught: Any) -> None:
    """Somebody else removing the same thing does what was wanted."""
    _unless_gone(caught[1])
