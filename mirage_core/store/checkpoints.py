"""Checkpoints of a training run: sealed folders by step, the last two kept, faulty ones passed over."""

from __future__ import annotations

import logging
from pathlib import Path

from mirage_core.errors import ArtifactDamaged, InputError
from mirage_core.store.manifest import MANIFEST, Manifest, describe_folder, digest_of, safe_name
from mirage_core.store.places import Place
from mirage_core.store.sealed import local_files, read_sealed, seal

logger = logging.getLogger(__name__)
CHECKPOINTS = "checkpoints"
KEPT = 2


def save(place: Place, run: str, step: int, folder: Path) -> None:
    """Store a folder as the state after ``step`` steps, then drop all but the last two."""
    if step < 0:
        raise InputError(f"got the step {step}, expected 0 or more")
    path = f"{_run_path(run)}/{step:08d}"
    files = describe_folder(folder)
    manifest = Manifest(kind=CHECKPOINTS, fingerprint=run, digest=digest_of(files), files=files)
    _remove(place, path)  # a run that resumed from an older step writes its own state of this one
    seal(place, path, folder, manifest)
    for old in _steps(place, run)[KEPT:]:
        _remove(place, f"{_run_path(run)}/{old:08d}")


def latest(place: Place, cache: Path, run: str) -> tuple[int, Path] | None:
    """The newest checkpoint whose every byte is right, as (step, local folder); None where there is none."""
    for step in _steps(place, run):
        path = f"{_run_path(run)}/{step:08d}"
        try:
            return step, local_files(place, cache, path, read_sealed(place, path))
        except FileNotFoundError:
            continue  # never completed
        except ArtifactDamaged as problem:
            logger.warning("%s; passed over for an older checkpoint", problem)
    return None


def drop(place: Place, run: str) -> None:
    """Remove every checkpoint of a run, manifests first."""
    for step in _steps(place, run):
        _remove(place, f"{_run_path(run)}/{step:08d}")
    place.remove(_run_path(run))


def _run_path(run: str) -> str:
    return f"{CHECKPOINTS}/{safe_name(run)[:20]}"


def _steps(place: Place, run: str) -> list[int]:
    """The steps that have a manifest, newest first."""
    names = place.sizes(_run_path(run))
    return sorted(
        (int(n.split("/")[0]) for n in names if n.endswith(f"/{MANIFEST}") and n.count("/") == 1), reverse=True
    )


def _remove(place: Place, path: str) -> None:
    place.remove(f"{path}/{MANIFEST}")
    place.remove(path)
