"""Sealed folders: files in a content-addressed folder, the manifest beside it; read, and every fault named."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from mirage_core.errors import ArtifactDamaged
from mirage_core.store.backends.base import Place
from mirage_core.store.backends.errors import store_error
from mirage_core.store.backends.local import LocalPlace
from mirage_core.store.digests import DigestMemory, file_sha256
from mirage_core.store.manifest import MANIFEST, FileEntry, Manifest, parse_manifest
from mirage_core.store.transfer import Meter, each
from mirage_core.types import Progress

logger = logging.getLogger(__name__)
_DIGESTS = DigestMemory()


class FileDamaged(ArtifactDamaged):
    """One file of a sealed folder is not what its manifest says; ``name`` is which."""

    def __init__(self, place: Place, path: str, name: str, fault: str) -> None:
        super().__init__(f"{path} in {place.url} is damaged: {fault}")
        self.name = name


def read_sealed(place: Place, path: str) -> Manifest:
    """The manifest of a sealed folder; FileNotFoundError where there is none, ArtifactDamaged where it is broken."""
    key = f"{path}/{MANIFEST}"
    try:
        return parse_manifest(place.read(key), f"{key} in {place.url}")
    except ArtifactDamaged:
        return parse_manifest(place.read(key), f"{key} in {place.url}")  # nothing is called damaged at one look


def find_sealed(place: Place, path: str) -> Manifest | None:
    """The manifest of a folder whose files are all there in their sizes, or None; faults are told as warnings."""
    try:
        manifest = read_sealed(place, path)
    except FileNotFoundError:
        return None
    except ArtifactDamaged as error:
        logger.warning("%s; taken as absent", error)
        return None
    faults = size_faults(manifest.files, place.sizes(f"{path}/{manifest.folder}"))
    if faults:
        logger.warning("%s in %s is faulty and taken as absent: %s", path, place.url, "; ".join(faults))
        return None
    return manifest


def size_faults(files: Iterable[FileEntry], there: Mapping[str, int]) -> list[str]:
    """What is wrong with the sizes of the files that are there, one line a file."""
    faults = []
    for entry in files:
        size = there.get(entry.name)
        if size is None:
            faults.append(f"{entry.name} is missing")
        elif size != entry.size:
            faults.append(f"{entry.name} has {size} bytes, its manifest says {entry.size}")
    return faults


def every_fault(place: Place, path: str, manifest: Manifest) -> list[str]:
    """Every fault of a sealed folder, its bytes read again from the place itself; empty when it is good."""
    there = place.sizes(f"{path}/{manifest.folder}")
    strangers = sorted(set(there) - {entry.name for entry in manifest.files})
    return file_faults(place, path, manifest, manifest.files) + [f"{name} is not in the manifest" for name in strangers]


def file_faults(place: Place, path: str, manifest: Manifest, files: Iterable[FileEntry]) -> list[str]:
    """The faults of some of a sealed folder's files, read again from the place itself."""
    there = place.sizes(f"{path}/{manifest.folder}")
    faults = size_faults(files, there)
    for entry in files:
        key = f"{path}/{manifest.folder}/{entry.name}"
        if there.get(entry.name) == entry.size and _stored_sha256(place, key) != entry.sha256:
            faults.append(f"{entry.name} has another sha256 than its manifest says")
    return faults


def local_files(place: Place, cache: Path, path: str, manifest: Manifest, progress: Progress | None = None) -> Path:
    """A local folder with the files, every sha256 verified: the stored folder itself, or a copy in the cache.

    Raises FileDamaged, naming the folder and the file.
    """
    inside = f"{path}/{manifest.folder}"
    folder = place.local(inside)
    if folder is not None:
        for entry in manifest.files:
            fault = _fault(folder / entry.name, entry)
            if fault:
                raise FileDamaged(place, path, entry.name, fault)
        return folder
    copies = LocalPlace(cache)
    copies.clear_leftovers()
    folder = cache / hashlib.sha256(place.url.encode()).hexdigest()[:12] / inside
    meter = Meter(f"fetching {path}", sum(entry.size for entry in manifest.files), progress)

    def bring(entry: FileEntry) -> None:
        fault = _download(place, f"{inside}/{entry.name}", copies, folder / entry.name, entry, meter)
        if fault:
            raise FileDamaged(place, path, entry.name, fault)

    each(place, manifest.files, bring, meter)
    return folder


def _download(place: Place, key: str, copies: LocalPlace, target: Path, entry: FileEntry, meter: Meter) -> str | None:
    """Bring one file into the cache, unless it is there; the fault of what has arrived, or None."""
    if _fault(target, entry) is None:
        meter.count(entry.size)
        return None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with copies.fresh() as fresh:
            place.get(key, fresh, meter.count, entry.size)
            fault = _fault(fresh, entry, remember=False)
            if fault is None:
                os.replace(fresh, target)
        return fault
    except FileNotFoundError:
        return f"{entry.name} is missing"
    except OSError as error:
        raise store_error(error, str(target.parent), entry.name, "write") from error


def _fault(path: Path, entry: FileEntry, remember: bool = True) -> str | None:
    """What is wrong with a local file, or None; bytes are read only where the size is right."""
    if not path.is_file():
        return f"{entry.name} is missing"
    size = path.stat().st_size
    if size != entry.size:
        return f"{entry.name} has {size} bytes, its manifest says {entry.size}"
    if (_DIGESTS.sha256(path) if remember else file_sha256(path)) != entry.sha256:
        return f"{entry.name} has another sha256 than its manifest says"
    return None


def _stored_sha256(place: Place, key: str) -> str | None:
    """The sha256 of a file as the place has it now; None where it has gone meanwhile."""
    stored = place.local(key)
    try:
        if stored is not None:
            return file_sha256(stored)
        with tempfile.TemporaryDirectory(prefix="mirage-verify-") as folder:
            place.get(key, Path(folder) / "file")
            return file_sha256(Path(folder) / "file")
    except FileNotFoundError:
        return None
