"""Artifact folders: files in a content-addressed folder and the manifest beside it; read, verified and downloaded."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from mirage_core.errors import ArtifactDamaged
from mirage_core.store.backends.base import Backend
from mirage_core.store.backends.errors import store_error
from mirage_core.store.backends.local import LocalBackend
from mirage_core.store.digests import DigestMemory, file_sha256
from mirage_core.store.manifest import MANIFEST, FileEntry, Manifest, parse_manifest
from mirage_core.store.transfer import TransferProgress, for_each_file
from mirage_core.types import Progress

logger = logging.getLogger(__name__)
_DIGESTS = DigestMemory()


class FileDamaged(ArtifactDamaged):
    """A file of an artifact folder differs from its manifest; ``name`` is the file's."""

    def __init__(self, backend: Backend, path: str, name: str, fault: str) -> None:
        super().__init__(f"{path} in {backend.url} is damaged: {fault}")
        self.name = name


def read_manifest(backend: Backend, path: str) -> Manifest:
    """Read the manifest of an artifact folder; FileNotFoundError where it is missing, ArtifactDamaged if broken."""
    key = f"{path}/{MANIFEST}"
    try:
        return parse_manifest(backend.read(key), f"{key} in {backend.url}")
    except ArtifactDamaged:
        return parse_manifest(backend.read(key), f"{key} in {backend.url}")  # read twice: the first may be misread


def find_manifest(backend: Backend, path: str) -> Manifest | None:
    """Return the manifest of a folder whose files all have the right size, else None; log faults as warnings."""
    try:
        manifest = read_manifest(backend, path)
    except FileNotFoundError:
        return None
    except ArtifactDamaged as error:
        logger.warning("%s; treated as absent", error)
        return None
    faults = size_faults(manifest.files, backend.sizes(f"{path}/{manifest.folder}"))
    if faults:
        logger.warning("%s in %s is faulty and treated as absent: %s", path, backend.url, "; ".join(faults))
        return None
    return manifest


def size_faults(files: Iterable[FileEntry], sizes: Mapping[str, int]) -> list[str]:
    """List the files that are missing or have the wrong size, one line each."""
    faults = []
    for entry in files:
        size = sizes.get(entry.name)
        if size is None:
            faults.append(f"{entry.name} is missing")
        elif size != entry.size:
            faults.append(f"{entry.name} has {size} bytes, its manifest says {entry.size}")
    return faults


def all_faults(backend: Backend, path: str, manifest: Manifest) -> list[str]:
    """List every fault of an artifact folder, its bytes read again from the backend; empty when it is good."""
    unknown = sorted(set(backend.sizes(f"{path}/{manifest.folder}")) - {entry.name for entry in manifest.files})
    return file_faults(backend, path, manifest, manifest.files) + [f"{name} is not in the manifest" for name in unknown]


def file_faults(backend: Backend, path: str, manifest: Manifest, files: Iterable[FileEntry]) -> list[str]:
    """List the faults of some of an artifact folder's files, their bytes read again from the backend."""
    sizes = backend.sizes(f"{path}/{manifest.folder}")
    faults = size_faults(files, sizes)
    for entry in files:
        key = f"{path}/{manifest.folder}/{entry.name}"
        if sizes.get(entry.name) == entry.size and _stored_sha256(backend, key) != entry.sha256:
            faults.append(f"{entry.name} has another sha256 than its manifest says")
    return faults


def local_files(backend: Backend, cache: Path, path: str, manifest: Manifest, progress: Progress | None = None) -> Path:
    """Return a local folder with the files, every sha256 verified: the stored folder itself, or a copy in the cache.

    Raises FileDamaged, naming the folder and the file.
    """
    prefix = f"{path}/{manifest.folder}"
    folder = backend.local(prefix)
    if folder is not None:
        for entry in manifest.files:
            fault = _fault(folder / entry.name, entry)
            if fault:
                raise FileDamaged(backend, path, entry.name, fault)
        return folder
    cached = LocalBackend(cache)
    cached.clear_leftovers()
    folder = cache / hashlib.sha256(backend.url.encode()).hexdigest()[:12] / prefix
    transferred = TransferProgress(f"fetching {path}", sum(entry.size for entry in manifest.files), progress)

    def download(entry: FileEntry) -> None:
        fault = _download(backend, f"{prefix}/{entry.name}", cached, folder / entry.name, entry, transferred)
        if fault:
            raise FileDamaged(backend, path, entry.name, fault)

    for_each_file(backend, manifest.files, download, transferred)
    return folder


def _download(
    backend: Backend, key: str, cached: LocalBackend, target: Path, entry: FileEntry, transferred: TransferProgress
) -> str | None:
    """Download a file into the cache, unless it is there; return the fault of what arrived, or None."""
    if _fault(target, entry) is None:
        transferred.count(entry.size)
        return None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with cached.temporary_file() as temporary:
            backend.get(key, temporary, transferred.count, entry.size)
            fault = _fault(temporary, entry, remember=False)
            if fault is None:
                os.replace(temporary, target)
        return fault
    except FileNotFoundError:
        return f"{entry.name} is missing"
    except OSError as error:
        raise store_error(error, str(target.parent), entry.name, "write") from error


def _fault(path: Path, entry: FileEntry, remember: bool = True) -> str | None:
    """The fault of a local file, or None; its bytes are read only if its size is right."""
    if not path.is_file():
        return f"{entry.name} is missing"
    size = path.stat().st_size
    if size != entry.size:
        return f"{entry.name} has {size} bytes, its manifest says {entry.size}"
    if (_DIGESTS.sha256(path) if remember else file_sha256(path)) != entry.sha256:
        return f"{entry.name} has another sha256 than its manifest says"
    return None


def _stored_sha256(backend: Backend, key: str) -> str | None:
    """The sha256 of a file as the backend now returns it; None where it was removed meanwhile."""
    local = backend.local(key)
    try:
        if local is not None:
            return file_sha256(local)
        with tempfile.TemporaryDirectory(prefix="mirage-verify-") as folder:
            backend.get(key, Path(folder) / "file")
            return file_sha256(Path(folder) / "file")
    except FileNotFoundError:
        return None
