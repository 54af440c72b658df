"""Where bytes lie: a local folder or an fsspec file system, with the same few operations and the same errors."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mirage_core.errors import ArtifactError, MirageError, SettingsError, StoreUnavailable

logger = logging.getLogger(__name__)
TEMPORARY = ".tmp"
LEFTOVER_S = 24 * 3600


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

    def put(self, source: Path, key: str) -> None:
        """Upload a file atomically, replacing what is there."""

    def get(self, key: str, target: Path) -> None: ...

    def sizes(self, prefix: str) -> dict[str, int]:
        """Every file below a folder, by its name relative to it; empty where the folder is not there."""

    def remove(self, key: str) -> None:
        """Remove a file or a folder; nothing happens where there is none."""

    def probe(self) -> None:
        """Write something small and remove it; raises what a real write would."""

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

    # A listing cache hides objects that another client has just written.
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in ("s3", "s3a"):
        options["config_kwargs"] = {"connect_timeout": 10, "read_timeout": 120, "retries": {"max_attempts": 3}}
    try:
        system, base = url_to_fs(url, **options)
    except (ImportError, ValueError) as problem:
        raise SettingsError(f"the store root {url!r} cannot be opened: {problem}") from problem
    return RemotePlace(url, system, base.rstrip("/"))


@dataclass(frozen=True)
class LocalPlace:
    """A folder on this machine. Writes go to a temporary file first, then ``os.replace``."""

    root: Path

    @property
    def url(self) -> str:
        return str(self.root)

    def read(self, key: str) -> bytes:
        with _errors_named(self.url, key):
            return (self.root / key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        with _errors_named(self.url, key, writing=True), self._fresh() as fresh:
            fresh.write_bytes(data)
            os.replace(fresh, self._ready(key))

    def create(self, key: str, data: bytes) -> bool:
        with _errors_named(self.url, key, writing=True), self._fresh() as fresh:
            fresh.write_bytes(data)
            try:
                os.link(fresh, self._ready(key))  # fails where the name is taken, unlike replace
            except FileExistsError:
                return False
            return True

    def put(self, source: Path, key: str) -> None:
        with _errors_named(self.url, key, writing=True), self._fresh() as fresh:
            shutil.copyfile(source, fresh)
            os.replace(fresh, self._ready(key))

    def get(self, key: str, target: Path) -> None:
        with _errors_named(self.url, key):
            shutil.copyfile(self.root / key, target)

    def sizes(self, prefix: str) -> dict[str, int]:
        folder = self.root / prefix
        found: dict[str, int] = {}
        with _errors_named(self.url, prefix):
            for at, _, names in os.walk(folder, onerror=_unless_gone):
                for name in names:
                    with suppress(FileNotFoundError):  # removed while we were listing
                        found[Path(at, name).relative_to(folder).as_posix()] = os.stat(Path(at, name)).st_size
        return {name: size for name, size in found.items() if not name.startswith(f"{TEMPORARY}/")}

    def remove(self, key: str) -> None:
        path = self.root / key
        with _errors_named(self.url, key, writing=True), suppress(FileNotFoundError):
            shutil.rmtree(path, onerror=_unless_removed) if path.is_dir() else path.unlink()

    def probe(self) -> None:
        with _errors_named(self.url, "a probe", writing=True), self._fresh() as fresh:
            fresh.write_bytes(b"mirage")
            for left in fresh.parent.iterdir():  # by writers that were killed
                if time.time() - left.stat().st_mtime > LEFTOVER_S:
                    left.unlink(missing_ok=True)

    def local(self, key: str) -> Path | None:
        return self.root / key

    def _ready(self, key: str) -> Path:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def _fresh(self) -> Iterator[Path]:
        """A new name on the same disk, outside every artifact, gone afterwards."""
        folder = self.root / TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / uuid.uuid4().hex
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _unless_gone(problem: OSError) -> None:
    if not isinstance(problem, FileNotFoundError):
        raise problem


def _unless_removed(_function: Any, _path: str, caught: Any) -> None:
    """Somebody else removing the same thing does what was wanted."""
    _unless_gone(caught[1])


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
        with _errors_named(self.url, key):
            return bytes(self.system.cat_file(self._at(key)))

    def write(self, key: str, data: bytes) -> None:
        with _errors_named(self.url, key, writing=True):
            self.system.pipe_file(self._at(key), data)

    def create(self, key: str, data: bytes) -> bool:
        with _errors_named(self.url, key, writing=True):
            try:
                self.system.pipe_file(self._at(key), data, mode="create")
            except FileExistsError:
                return False
            except (OSError, NotImplementedError) as problem:
                if self.system.exists(self._at(key)):  # servers word "it is taken" in several ways
                    return False
                if isinstance(problem, OSError) and problem.errno != errno.ENOSYS:
                    raise
                logger.warning(
                    "%s cannot create conditionally (%s): the last writer of %s wins", self.url, problem, key
                )
                self.system.pipe_file(self._at(key), data)
            return True

    def put(self, source: Path, key: str) -> None:
        with _errors_named(self.url, key, writing=True):
            self.system.put_file(str(source), self._at(key))

    def get(self, key: str, target: Path) -> None:
        with _errors_named(self.url, key):
            self.system.get_file(self._at(key), str(target))

    def sizes(self, prefix: str) -> dict[str, int]:
        start = self._at(prefix) + "/" if prefix else self.base + "/"
        with _errors_named(self.url, prefix):
            try:
                found = self.system.find(start.rstrip("/"), detail=True)
            except FileNotFoundError:
                return {}
        return {name[len(start) :]: int(info["size"]) for name, info in found.items() if name.startswith(start)}

    def remove(self, key: str) -> None:
        with _errors_named(self.url, key, writing=True), suppress(FileNotFoundError):
            self.system.rm(self._at(key), recursive=True)

    def probe(self) -> None:
        key = f"{TEMPORARY}/{uuid.uuid4().hex}"
        self.write(key, b"mirage")
        self.remove(key)

    def local(self, key: str) -> Path | None:  # noqa: ARG002 (nothing of it is on this disk)
        return None

    def _at(self, key: str) -> str:
        return f"{self.base}/{key}".rstrip("/")


@contextmanager
def _errors_named(url: str, key: str, writing: bool = False) -> Iterator[None]:
    """Turn what file systems and S3 clients raise into the store's errors; a missing file stays FileNotFoundError."""
    try:
        yield
    except MirageError:
        raise
    except FileNotFoundError as problem:
        if not writing:
            raise
        said = str(problem).rstrip(".")
        raise ArtifactError(f"cannot write {key} to {url}: {said}. Create that folder or bucket first") from problem
    except Exception as problem:
        raise store_error(problem, url, key, "write" if writing else "read") from problem


def store_error(problem: Exception, url: str, key: str, doing: str) -> MirageError:
    """The store's error for a low-level one, with the way out; transient ones are StoreUnavailable."""
    at = f"cannot {doing} {key or 'the store'} {'to' if doing == 'write' else 'in'} {url}"
    code = problem.errno if isinstance(problem, OSError) else None
    name = type(problem).__name__
    if code in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnavailable(f"{at}: no space left. Free some room or choose another store root, then run again")
    if isinstance(problem, PermissionError) or code in (errno.EROFS, errno.EPERM) or "Credentials" in name:
        return ArtifactError(
            f"{at}: not allowed ({problem}). Check the owner and the credentials, or choose another root"
        )
    if isinstance(problem, NotADirectoryError | IsADirectoryError | FileExistsError):
        return ArtifactError(f"{at}: a file stands where a folder should be, or the reverse ({problem}). Move it away")
    if isinstance(problem, OSError) or type(problem).__module__.startswith(("botocore", "aiobotocore", "aiohttp")):
        return StoreUnavailable(f"{at}: the store did not answer well ({name}: {problem}). Check that it is reachable")
    return ArtifactError(f"{at}: {name}: {problem}")
