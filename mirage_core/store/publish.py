"""Publishing an artifact folder: its files, then its manifest; the first complete artifact of a path wins."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from mirage_core.errors import ArtifactDamaged, ArtifactError, StoreUnavailable
from mirage_core.store.artifact_folder import find_manifest, read_manifest, size_faults
from mirage_core.store.backends.base import Backend
from mirage_core.store.backends.entries import Entry
from mirage_core.store.manifest import FILES, MANIFEST, Manifest
from mirage_core.store.quarantine import Records, file_folders, records, retire
from mirage_core.store.transfer import Sources, TransferProgress, upload
from mirage_core.types import Progress

logger = logging.getLogger(__name__)
ATTEMPTS = 8
SETTLE_S = 2.0
SETTLE_POLL_S = 0.25
RECENT_S = 30.0


def publish_folder(
    backend: Backend, path: str, folder: Path, describe: Callable[[], Manifest], progress: Progress | None = None
) -> Manifest:
    """Upload a folder's files, then its manifest; return the manifest that is stored in the end.

    ``describe`` creates the manifest, which takes as long as reading the files: the backend is queried meanwhile.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="mirage-describe")
    described = pool.submit(describe)
    pool.shutdown(wait=False)
    for _ in range(ATTEMPTS):
        present = backend.sizes(path)
        existing = _existing(backend, path) if MANIFEST in present else None
        if existing is not None:
            described.cancel()
            return existing
        before = records(backend, path)
        manifest = described.result().model_copy(update={"edition": before.edition})
        created = _upload_and_create(backend, path, folder, manifest, present, progress)
        if created and _undisturbed(backend, path, manifest, before):
            return _settled(backend, path, manifest, SETTLE_S) if created == "contended" else manifest
        if created:  # its files folder was quarantined during the upload
            backend.delete_if_unchanged(f"{path}/{MANIFEST}", manifest.to_bytes())
    raise StoreUnavailable(
        f"{path} was taken out of use {ATTEMPTS} times while it was published to {backend.url}: another process "
        "removes it; stop that process, then run again"
    )


def _upload_and_create(
    backend: Backend, path: str, folder: Path, manifest: Manifest, present: Mapping[str, int], progress: Progress | None
) -> Literal["alone", "contended"] | None:
    """Upload the files and create the manifest; None if another manifest exists by now or files were removed."""
    upload_files(backend, path, folder, manifest, present, progress)
    entries = backend.entries(path)
    if not _complete(folder, path, manifest, {name: entry.size for name, entry in entries.items()}):
        return None
    competitors = set() if backend.local("") is not None else _competitors(entries, manifest)
    if competitors and _wait_for_turn(backend, path, manifest) is not None:
        return None
    if not backend.create(f"{path}/{MANIFEST}", manifest.to_bytes()):
        return None
    return "contended" if competitors else "alone"


def _undisturbed(backend: Backend, path: str, manifest: Manifest, before: Records) -> bool:
    """Whether none of its files was quarantined before the manifest was created."""
    if not records(backend, path).names <= before.names:
        return False
    # Checked after the records: whoever removes both files and records removes the files first.
    return not size_faults(manifest.files, backend.sizes(f"{path}/{manifest.folder}"))


def upload_files(
    backend: Backend,
    path: str,
    folder: Path,
    manifest: Manifest,
    present: Mapping[str, int],
    progress: Progress | None = None,
    sources: Sources | None = None,
) -> None:
    """Upload a folder's files, except those ``present`` at the path (sizes by name) with the right content."""
    sizes = _below(present, manifest.folder)
    transferred = TransferProgress(f"storing {path}", sum(entry.size for entry in manifest.files), progress)
    upload(backend, folder, manifest.files, f"{path}/{manifest.folder}", sizes, transferred, sources)


def is_complete(backend: Backend, path: str, folder: Path, manifest: Manifest) -> bool:
    """Whether all files are stored; False if some were removed again, ArtifactError if the folder has changed."""
    return _complete(folder, path, manifest, backend.sizes(path))


def _complete(folder: Path, path: str, manifest: Manifest, present: Mapping[str, int]) -> bool:
    faults = size_faults(manifest.files, _below(present, manifest.folder))
    if faults:
        _check_unchanged(folder, manifest, path)
        logger.warning("%s was not stored completely (%s); storing it again", path, "; ".join(faults))
    return not faults


def _below(sizes: Mapping[str, int], folder: str) -> dict[str, int]:
    return {name.removeprefix(f"{folder}/"): size for name, size in sizes.items() if name.startswith(f"{folder}/")}


def _existing(backend: Backend, path: str) -> Manifest | None:
    """The manifest of a complete artifact; a faulty one is quarantined, so that its path is free."""
    try:
        data = backend.read(f"{path}/{MANIFEST}")
    except FileNotFoundError:
        return None
    manifest = find_manifest(backend, path)
    if manifest is None:
        retire(backend, path, data, file_folders(backend, path), "faulty when it was published again")
    return manifest


def _competitors(entries: Mapping[str, Entry], manifest: Manifest) -> set[str]:
    """The files folders of other publishers that may create a manifest soon: files were stored in them recently."""
    newest: dict[str, float] = {}
    for name, entry in entries.items():
        folder = name.split("/")[0]
        if folder.startswith(FILES):
            newest[folder] = max(entry.modified, newest.get(folder, 0.0))
    now = max(newest.values(), default=0.0)
    edition = manifest.folder.split("-")[2:]  # folders of another edition are quarantined
    recent = {folder for folder, last in newest.items() if folder.split("-")[2:] == edition and last > now - RECENT_S}
    return recent - {manifest.folder}


def _wait_for_turn(backend: Backend, path: str, manifest: Manifest) -> Manifest | None:
    """Wait before the manifest is created; return a competitor's manifest if one appears, None at our turn.

    Many S3 servers do not enforce conditional creation when several clients race (Swift lets nine of ten such races
    through), and a reader must not see one manifest replaced by another. Every publisher stores its files before its
    manifest. So a publisher that sees no competitors' files goes first, at once; the others wait for it, then go in
    order of their folder names, each with time to see the one before. The order is computed again each time: of two
    publishers, one may have listed the path before the other's files were stored.
    """
    turns = 0
    while turns <= sum(folder < manifest.folder for folder in _competitors(backend.entries(path), manifest)):
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            existing = find_manifest(backend, path)
            if existing is not None:
                return existing
            time.sleep(SETTLE_POLL_S)
        turns += 1
    return None


def _settled(backend: Backend, path: str, manifest: Manifest, seconds: float) -> Manifest:
    """The manifest that stays after ours was created: the last one, should two creations have succeeded."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            winner = read_manifest(backend, path)
        except (FileNotFoundError, ArtifactDamaged):
            return manifest  # quarantined or removed since: its next reader gets the error
        if time.monotonic() >= deadline:
            return winner
        time.sleep(SETTLE_POLL_S)


def _check_unchanged(folder: Path, manifest: Manifest, path: str) -> None:
    for entry in manifest.files:
        size = (folder / entry.name).stat().st_size if (folder / entry.name).is_file() else None
        if size != entry.size:
            raise ArtifactError(
                f"{path} was not stored completely: {folder / entry.name} had {entry.size} bytes and now has {size}. "
                f"Was {folder} still written to?"
            )
