"""Checkpoints of a training run: artifact folders by step; the last few stay, damaged ones are skipped and removed."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from mirage_core.errors import ArtifactDamaged, InputError, StoreUnavailable
from mirage_core.store.artifact_folder import file_faults, find_manifest, local_files, read_manifest
from mirage_core.store.backends.base import Backend
from mirage_core.store.manifest import MANIFEST, Manifest, describe_folder, digest_of, parse_manifest, safe_name
from mirage_core.store.publish import is_complete, upload_files
from mirage_core.store.quarantine import file_folders
from mirage_core.store.transfer import Sources
from mirage_core.types import Progress

logger = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
KEEP_LAST = 2
ATTEMPTS = 4
READ_ATTEMPTS = 3


def save(
    backend: Backend, run: str, step: int, folder: Path, progress: Progress | None = None, *, keep: int = KEEP_LAST
) -> None:
    """Store a folder as the state after ``step`` steps, then remove all but the last ``keep`` checkpoints.

    Files that a checkpoint of this run already has (from a killed upload or the step before) are not sent again.
    """
    if step < 0:
        raise InputError(f"got the step {step}, expected 0 or more")
    if keep < 1:
        raise InputError(f"got keep = {keep}, expected 1 or more: a run could not resume")
    path = _path(run, step)
    files = describe_folder(folder)
    manifest = Manifest(kind=CHECKPOINTS, fingerprint=run, digest=digest_of(files), files=files)
    sources = _sources(backend, run, step)
    for _ in range(ATTEMPTS):
        backend.remove(f"{path}/{MANIFEST}")  # a run that resumed from an older step replaces it
        upload_files(backend, path, folder, manifest, backend.sizes(path), progress, sources)
        if is_complete(backend, path, folder, manifest) and backend.create(f"{path}/{MANIFEST}", manifest.to_bytes()):
            break
    else:
        raise StoreUnavailable(f"{path} could not be stored in {backend.url}: another process writes or removes it")
    for other in file_folders(backend, path):
        if other != manifest.folder:
            backend.remove(f"{path}/{other}")
    for old in _steps(backend, run)[keep:]:
        _remove(backend, _path(run, old))


def latest(backend: Backend, cache: Path, run: str, progress: Progress | None = None) -> tuple[int, Path] | None:
    """Return the newest checkpoint that verifies, as (step, local folder); None if there is none."""
    for step in _steps(backend, run):
        path = _path(run, step)
        with suppress(FileNotFoundError):  # was never completed
            folder = _read(backend, cache, path, progress)
            if folder is not None:
                return step, folder
    return None


def _read(backend: Backend, cache: Path, path: str, progress: Progress | None) -> Path | None:
    """A checkpoint's verified files; None if it is damaged (then it is removed) or misread several times."""
    for _ in range(READ_ATTEMPTS):
        try:
            return local_files(backend, cache, path, read_manifest(backend, path), progress)
        except ArtifactDamaged as error:
            logger.warning("%s; read again, and skipped for an older checkpoint if it still does not verify", error)
            if _remove_if_damaged(backend, path):
                break
    return None


def drop(backend: Backend, run: str) -> None:
    """Remove every checkpoint of a run, manifests first."""
    for step in _steps(backend, run):
        _remove(backend, _path(run, step))
    backend.remove(_run_path(run))


def _run_path(run: str) -> str:
    return f"{CHECKPOINTS}/{safe_name(run)[:20]}"


def _path(run: str, step: int) -> str:
    return f"{_run_path(run)}/{step:08d}"


def _steps(backend: Backend, run: str) -> list[int]:
    """The steps that have a manifest, newest first."""
    names = backend.sizes(_run_path(run))
    return sorted(
        (int(n.split("/")[0]) for n in names if n.endswith(f"/{MANIFEST}") and n.count("/") == 1), reverse=True
    )


def _sources(backend: Backend, run: str, step: int) -> Sources:
    """The files of the run's other checkpoints that may be copied, those of the nearest step first."""
    sources: dict[tuple[str, int], str] = {}
    for other in sorted(set(_steps(backend, run)) - {step}, key=lambda candidate: abs(candidate - step)):
        path = _path(run, other)
        manifest = find_manifest(backend, path)
        if manifest is not None:
            for entry in manifest.files:
                sources.setdefault((entry.sha256, entry.size), f"{path}/{manifest.folder}/{entry.name}")
    return sources


def _remove_if_damaged(backend: Backend, path: str) -> bool:
    """Read a checkpoint again and remove it if it is damaged and unchanged; return False if it is good."""
    with suppress(FileNotFoundError):
        data = backend.read(f"{path}/{MANIFEST}")
        try:
            manifest = parse_manifest(data, path)
        except ArtifactDamaged:
            backend.delete_if_unchanged(f"{path}/{MANIFEST}", data)
            return True
        if not file_faults(backend, path, manifest, manifest.files):
            return False
        if backend.delete_if_unchanged(f"{path}/{MANIFEST}", data):
            backend.remove(f"{path}/{manifest.folder}")
    return True


def _remove(backend: Backend, path: str) -> None:
    backend.remove(f"{path}/{MANIFEST}")
    backend.remove(path)
