"""Checkpoints of a training run: sealed folders by step, the last few kept, faulty ones passed over and removed."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from mirage_core.errors import ArtifactDamaged, InputError, StoreUnavailable
from mirage_core.store.artifact_folder import file_faults, find_sealed, local_files, read_sealed
from mirage_core.store.backends.base import Place
from mirage_core.store.manifest import MANIFEST, Manifest, describe_folder, digest_of, parse_manifest, safe_name
from mirage_core.store.publish import is_whole, upload_whole
from mirage_core.store.quarantine import file_folders
from mirage_core.store.transfer import Sources
from mirage_core.types import Progress

logger = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
KEPT = 2
ATTEMPTS = 4
LOOKS = 3


def save(
    place: Place, run: str, step: int, folder: Path, progress: Progress | None = None, *, keep: int = KEPT
) -> None:
    """Store a folder as the state after ``step`` steps, then drop all but the last ``keep``.

    Files that a checkpoint of this run has already, from an upload that was killed or from the step before, are not
    sent again.
    """
    if step < 0:
        raise InputError(f"got the step {step}, expected 0 or more")
    if keep < 1:
        raise InputError(f"got keep = {keep}, expected 1 or more: a run could not go on")
    path = _path(run, step)
    files = describe_folder(folder)
    manifest = Manifest(kind=CHECKPOINTS, fingerprint=run, digest=digest_of(files), files=files)
    sources = _sources(place, run, step)
    for _ in range(ATTEMPTS):
        place.remove(f"{path}/{MANIFEST}")  # a run that resumed from an older step writes its own state of this one
        upload_whole(place, path, folder, manifest, place.sizes(path), progress, sources)
        if is_whole(place, path, folder, manifest) and place.create(f"{path}/{MANIFEST}", manifest.to_bytes()):
            break
    else:
        raise StoreUnavailable(f"{path} could not be stored in {place.url}: something else writes or removes it")
    for other in file_folders(place, path):
        if other != manifest.folder:
            place.remove(f"{path}/{other}")
    for old in _steps(place, run)[keep:]:
        _remove(place, _path(run, old))


def latest(place: Place, cache: Path, run: str, progress: Progress | None = None) -> tuple[int, Path] | None:
    """The newest checkpoint whose every byte is right, as (step, local folder); None where there is none."""
    for step in _steps(place, run):
        path = _path(run, step)
        with suppress(FileNotFoundError):  # never completed
            folder = _read(place, cache, path, progress)
            if folder is not None:
                return step, folder
    return None


def _read(place: Place, cache: Path, path: str, progress: Progress | None) -> Path | None:
    """A checkpoint's files, verified; None where it is damaged (it is removed) or is misread again and again."""
    for _ in range(LOOKS):
        try:
            return local_files(place, cache, path, read_sealed(place, path), progress)
        except ArtifactDamaged as error:
            logger.warning("%s; passed over for an older checkpoint, should it not read well now", error)
            if _clean(place, path):
                break
    return None


def drop(place: Place, run: str) -> None:
    """Remove every checkpoint of a run, manifests first."""
    for step in _steps(place, run):
        _remove(place, _path(run, step))
    place.remove(_run_path(run))


def _run_path(run: str) -> str:
    return f"{CHECKPOINTS}/{safe_name(run)[:20]}"


def _path(run: str, step: int) -> str:
    return f"{_run_path(run)}/{step:08d}"


def _steps(place: Place, run: str) -> list[int]:
    """The steps that have a manifest, newest first."""
    names = place.sizes(_run_path(run))
    return sorted(
        (int(n.split("/")[0]) for n in names if n.endswith(f"/{MANIFEST}") and n.count("/") == 1), reverse=True
    )


def _sources(place: Place, run: str, step: int) -> Sources:
    """The files of the run's other checkpoints, the nearest step's first, as something to copy from."""
    found: dict[tuple[str, int], str] = {}
    for other in sorted(set(_steps(place, run)) - {step}, key=lambda known: abs(known - step)):
        path = _path(run, other)
        manifest = find_sealed(place, path)
        if manifest is not None:
            for entry in manifest.files:
                found.setdefault((entry.sha256, entry.size), f"{path}/{manifest.folder}/{entry.name}")
    return found


def _clean(place: Place, path: str) -> bool:
    """Remove a checkpoint that is damaged at a second look, too, unless it was written anew; False if it is good."""
    with suppress(FileNotFoundError):
        data = place.read(f"{path}/{MANIFEST}")
        try:
            manifest = parse_manifest(data, path)
        except ArtifactDamaged:
            place.take(f"{path}/{MANIFEST}", data)
            return True
        if not file_faults(place, path, manifest, manifest.files):
            return False
        if place.take(f"{path}/{MANIFEST}", data):
            place.remove(f"{path}/{manifest.folder}")
    return True


def _remove(place: Place, path: str) -> None:
    place.remove(f"{path}/{MANIFEST}")
    place.remove(path)
