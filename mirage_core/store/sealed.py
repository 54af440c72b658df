"""Sealed folders: files in a content-addressed folder first, the manifest beside it last; verified on reading."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from mirage_core.errors import ArtifactDamaged, ArtifactError
from mirage_core.store.fingerprint import DigestMemory, file_sha256
from mirage_core.store.manifest import MANIFEST, FileEntry, Manifest, parse_manifest
from mirage_core.store.places import Place, store_error

logger = logging.getLogger(__name__)
_DIGESTS = DigestMemory()


def read_sealed(place: Place, path: str) -> Manifest:
    """The manifest of a sealed folder; FileNotFoundError where there is none, ArtifactDamaged where it is broken."""
    key = f"{path}/{MANIFEST}"
    return parse_manifest(place.read(key), f"{key} in {place.url}")


def find_sealed(place: Place, path: str) -> Manifest | None:
    """The manifest of a folder whose files are all there in their sizes, or None; faults are told as warnings."""
    try:
        manifest = read_sealed(place, path)
    except FileNotFoundError:
        return None
    except ArtifactDamaged as problem:
        logger.warning("%s; taken as absent", problem)
        return None
    faults = size_faults(manifest, place.sizes(f"{path}/{manifest.folder}"))
    if faults:
        logger.warning("%s in %s is faulty and taken as absent: %s", path, place.url, "; ".join(faults))
        return None
    return manifest


def size_faults(manifest: Manifest, there: Mapping[str, int]) -> list[str]:
    """What is wrong with the sizes of the files that are there, one line a file."""
    faults = []
    for entry in manifest.files:
        size = there.get(entry.name)
        if size is None:
            faults.append(f"{entry.name} is missing")
        elif size != entry.size:
            faults.append(f"{entry.name} has {size} bytes, its manifest says {entry.size}")
    return faults


def every_fault(place: Place, path: str, manifest: Manifest) -> list[str]:
    """Every fault of a sealed folder, its bytes read again from the place itself; empty when it is good."""
    there = place.sizes(f"{path}/{manifest.folder}")
    faults = size_faults(manifest, there)
    faults += [f"{name} is not in the manifest" for name in sorted(set(there) - {e.name for e in manifest.files})]
    for entry in manifest.files:
        key = f"{path}/{manifest.folder}/{entry.name}"
        if there.get(entry.name) == entry.size and _stored_sha256(place, key) != entry.sha256:
            faults.append(f"{entry.name} has another sha256 than its manifest says")
    return faults


def seal(place: Place, path: str, folder: Path, manifest: Manifest) -> Manifest:
    """Upload a folder's files, then its manifest; the first good manifest of a path wins and is returned."""
    for entry in manifest.files:
        place.put(folder / entry.name, f"{path}/{manifest.folder}/{entry.name}")
    faults = size_faults(manifest, place.sizes(f"{path}/{manifest.folder}"))
    if faults:
        raise ArtifactError(
            f"{path} was not stored whole in {place.url}: {'; '.join(faults)}. Was {folder} still written to?"
        )
    while not place.create(f"{path}/{MANIFEST}", manifest.to_bytes()):
        if find_sealed(place, path) is not None:
            break
        place.remove(f"{path}/{MANIFEST}")  # faulty: its stage ran again to replace it
    # Read again: not every S3 server's conditional create is atomic. A loser removes its own files, never another's.
    winner = find_sealed(place, path) or manifest
    if winner.digest != manifest.digest:
        place.remove(f"{path}/{manifest.folder}")
    return winner


def local_files(place: Place, cache: Path, path: str, manifest: Manifest) -> Path:
    """A local folder with the files, every sha256 verified: the stored folder itself, or a copy in the cache."""
    inside = f"{path}/{manifest.folder}"
    folder = place.local(inside)
    if folder is None:
        folder = cache / hashlib.sha256(place.url.encode()).hexdigest()[:12] / inside
        for entry in manifest.files:
            _download(place, f"{inside}/{entry.name}", folder / entry.name, entry)
        return folder
    for entry in manifest.files:
        fault = _fault(folder / entry.name, entry)
        if fault:
            raise _damaged(place, path, fault)
    return folder


def _download(place: Place, key: str, target: Path, entry: FileEntry) -> None:
    if _fault(target, entry) is None:
        return
    fresh = target.with_name(f".{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        place.get(key, fresh)
        fault = _fault(fresh, entry, remember=False)
        if fault is None:
            os.replace(fresh, target)
    except FileNotFoundError:
        fault = f"{entry.name} is missing"
    except OSError as problem:
        raise store_error(problem, str(target.parent), entry.name, "write") from problem
    finally:
        fresh.unlink(missing_ok=True)
    if fault:
        raise _damaged(place, key.split("/files-")[0], fault)


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


def _damaged(place: Place, path: str, fault: str) -> ArtifactDamaged:
    return ArtifactDamaged(
        f"{path} in {place.url} is damaged: {fault}. Remove {place.url}/{path} and run again: its stage makes it anew"
    )


def _stored_sha256(place: Place, key: str) -> str:
    stored = place.local(key)
    if stored is not None:
        return file_sha256(stored)
    with tempfile.TemporaryDirectory(prefix="mirage-verify-") as folder:
        place.get(key, Path(folder) / "file")
        return file_sha256(Path(folder) / "file")
