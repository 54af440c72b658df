"""The store: complete, verified, content-addressed artifacts, found by the fingerprint of their inputs and settings."""

from __future__ import annotations

import builtins
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mirage_core.errors import ArtifactDamaged, ArtifactError, ArtifactMissing, InputError
from mirage_core.json_values import read_json
from mirage_core.store import checkpoints
from mirage_core.store.artifact_folder import FileDamaged, all_faults, find_manifest, local_files, read_manifest
from mirage_core.store.backends.base import Backend, open_backend
from mirage_core.store.backends.entries import OLD_RESULTS, TEMPORARY
from mirage_core.store.digests import dump_checked, load_checked
from mirage_core.store.garbage import Garbage, find_garbage, remove_garbage
from mirage_core.store.manifest import MANIFEST, Manifest, describe_folder, digest_of, safe_name
from mirage_core.store.pointers import POINTERS, Pointer, new_pointer, pointer_key
from mirage_core.store.publish import publish_folder
from mirage_core.store.quarantine import QUARANTINE, quarantine_if_damaged
from mirage_core.types import Artifact, Progress

logger = logging.getLogger(__name__)
_NOT_KINDS = (checkpoints.CHECKPOINTS, "runs", "answers", OLD_RESULTS, POINTERS, QUARANTINE, TEMPORARY)


@dataclass(frozen=True)
class Store:
    """Artifacts below one root.

    Layout: ``<kind>/<fingerprint[:20]>/manifest.json`` beside ``files-<digest[:12]>/<name>``. Files come first
    and the manifest last, so an artifact with a manifest is complete; two publishers never mix their files.
    Every method raises StoreUnavailable (transient) when the root does not answer or is full.
    """

    backend: Backend
    cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "mirage")

    @classmethod
    def open(cls, url: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None) -> Store:
        """Open ``/path``, ``~/path``, ``file:///path`` or ``s3://bucket/prefix``; ``cache`` is for remote ones."""
        backend = open_backend(os.fspath(url))
        return cls(backend) if cache is None else cls(backend, Path(cache))

    @property
    def url(self) -> str:
        """The root: an absolute path, or the URL it was opened with."""
        return self.backend.url

    # Artifacts

    def find(self, kind: str, fingerprint: str) -> Artifact | None:
        """Return the complete artifact of a fingerprint, or None; a faulty one is logged and treated as absent."""
        path = _artifact_path(kind, fingerprint)
        manifest = find_manifest(self.backend, path)
        if manifest is None:
            return None
        if (manifest.kind, manifest.fingerprint) != (kind, fingerprint):
            logger.warning("%s in %s belongs to the fingerprint %s", path, self.url, manifest.fingerprint)
            return None
        return _artifact(path, manifest)

    def publish(
        self,
        kind: str,
        fingerprint: str,
        folder: Path,
        *,
        summary: Mapping[str, Any],
        about: Mapping[str, Any],
        progress: Progress | None = None,
    ) -> Artifact:
        """Store every file of a folder as one artifact; an existing good artifact of that fingerprint wins.

        Files left by a killed upload of the same content are not sent again.
        """
        path = _artifact_path(kind, fingerprint)

        def describe() -> Manifest:
            files = describe_folder(folder)
            return Manifest(
                kind=kind,
                fingerprint=fingerprint,
                digest=digest_of(files),
                files=files,
                summary=dict(summary),
                about={"created": datetime.now(UTC).isoformat(timespec="microseconds"), **about},
            )

        return _artifact(path, publish_folder(self.backend, path, folder, describe, progress))

    def fetch(self, artifact: Artifact, progress: Progress | None = None) -> Path:
        """Return a local folder with the artifact's files, every sha256 verified; read only, it may be the store's own.

        Raises ArtifactMissing or ArtifactDamaged, naming the artifact and the file. A damaged artifact is quarantined
        first, so that its stage runs again in the next run.
        """
        for attempt in (1, 2):
            try:
                return local_files(self.backend, self.cache, artifact.path, self.manifest(artifact), progress)
            except ArtifactDamaged as error:
                name = error.name if isinstance(error, FileDamaged) else None
                try:
                    record = quarantine_if_damaged(self.backend, artifact.path, artifact.digest, name, str(error))
                except ArtifactError as other:
                    raise ArtifactDamaged(f"{error}. It could not be taken out of use: {other}") from error
                if record is not None or attempt == 2:
                    raise ArtifactDamaged(_damage_message(error, record, self.url)) from error
                # It verifies when read again: it was misread, or replaced meanwhile.
        raise AssertionError("unreachable")

    def quarantine(self, artifact: Artifact, fault: str) -> str | None:
        """Take a damaged artifact out of use: ``find`` then returns None, and its stage runs again.

        Its bytes are read again first. Returns the name of the record (for ``read_json``), or None if nothing was
        quarantined: the artifact verifies, was removed, or was replaced by one with another digest.
        """
        return quarantine_if_damaged(self.backend, _checked_path(artifact.path), artifact.digest, None, fault)

    def manifest(self, artifact: Artifact) -> Manifest:
        """Return the artifact's manifest; ArtifactMissing if there is none or it describes other content by now."""
        path = _checked_path(artifact.path)
        try:
            manifest = read_manifest(self.backend, path)
        except FileNotFoundError as error:
            raise ArtifactMissing(
                f"{path} is not in {self.url}: it was removed or never completed; run its stage again"
            ) from error
        if manifest.digest != artifact.digest:
            raise ArtifactMissing(
                f"{path} in {self.url} has the digest {manifest.digest[:12]}, expected {artifact.digest[:12]}: it was "
                "replaced meanwhile; run the stages that use it again"
            )
        return manifest

    def verify(self, artifact: Artifact) -> builtins.list[str]:
        """List every fault of an artifact, its bytes read again from the store; empty when it is good."""
        try:
            return all_faults(self.backend, artifact.path, self.manifest(artifact))
        except (ArtifactMissing, ArtifactDamaged) as error:
            return [str(error)]

    def list(self, kind: str | None = None) -> builtins.list[Artifact]:
        """List the artifacts that have a readable manifest, newest first; log the others as warnings."""
        dated = []
        for path in self._paths(kind):
            try:
                manifest = read_manifest(self.backend, path)
            except FileNotFoundError:
                continue  # removed during the listing
            except ArtifactDamaged as error:
                logger.warning("%s; left out of the list", error)
                continue
            dated.append((str(manifest.about.get("created", "")), _artifact(path, manifest)))
        return [artifact for _, artifact in sorted(dated, key=lambda pair: pair[0], reverse=True)]

    def unreadable(self) -> builtins.list[tuple[Artifact, str]]:
        """List the artifacts whose manifest is broken (``list`` leaves them out), each with its fault."""
        unreadable = []
        for path in self._paths(None):
            try:
                read_manifest(self.backend, path)
            except FileNotFoundError:
                continue
            except ArtifactDamaged as error:
                unreadable.append((Artifact(kind=path.split("/")[0], path=path, digest=""), str(error)))
        return unreadable

    def _paths(self, kind: str | None) -> builtins.list[str]:
        """The paths of all artifacts that have a manifest, readable or not."""
        prefix = f"{safe_name(kind)}/" if kind else ""
        names = self.backend.sizes(kind or "")
        paths = {prefix + name.removesuffix(f"/{MANIFEST}") for name in names if name.endswith(f"/{MANIFEST}")}
        return sorted(path for path in paths if path.count("/") == 1 and path.split("/")[0] not in _NOT_KINDS)

    def get(self, reference: str) -> Artifact:
        """Return the one artifact whose path is, or whose path or digest starts with, the reference."""
        prefix = reference.strip().strip("/")
        matches = [a for a in self.list() if prefix and (a.path.startswith(prefix) or a.digest.startswith(prefix))]
        exact = [artifact for artifact in matches if artifact.path == prefix]
        if len(exact or matches) == 1:
            return (exact or matches)[0]
        if not matches:
            raise ArtifactMissing(f"no artifact {reference!r} in {self.url}: `mirage store ls` lists them")
        paths = ", ".join(artifact.path for artifact in matches[:8])
        raise ArtifactError(
            f"{reference!r} is not one artifact but {len(matches)} in {self.url}: {paths}; give a longer reference"
        )

    def remove(self, artifact: Artifact) -> None:
        """Remove an artifact: its manifest first, so that a half-removed artifact is never complete."""
        path = _checked_path(artifact.path)
        self.backend.remove(f"{path}/{MANIFEST}")
        self.backend.remove(path)

    def check_writable(self) -> None:
        """Write and remove a few bytes, so that an unwritable store fails before hours of work."""
        self.backend.probe()

    # Checkpoints of training runs; ``run`` is the fingerprint of the training stage

    def save_checkpoint(
        self, run: str, step: int, folder: Path, progress: Progress | None = None, *, keep: int = checkpoints.KEEP_LAST
    ) -> None:
        """Store a training run's state after ``step`` steps, manifest last; the last ``keep`` checkpoints stay.

        Files unchanged since the previous checkpoint are copied inside the store.
        """
        checkpoints.save(self.backend, run, step, folder, progress, keep=keep)

    def latest_checkpoint(self, run: str, progress: Progress | None = None) -> tuple[int, Path] | None:
        """Return the newest good checkpoint of a run as (step, verified local folder); damaged ones are removed."""
        return checkpoints.latest(self.backend, self.cache, run, progress)

    def drop_checkpoints(self, run: str) -> None:
        """Remove every checkpoint of a run."""
        checkpoints.drop(self.backend, run)

    # Named pointers

    def point(self, name: str, artifact: Artifact, about: Mapping[str, Any] | None = None) -> Pointer:
        """Point a name (``nightly``) at an artifact of the store; the last writer wins, the history stays.

        Raises ArtifactMissing when the artifact is not in the store.
        """
        self.manifest(artifact)
        key, metadata = pointer_key(name), dict(about or {})
        try:
            pointer = self.pointer(name).moved(artifact, metadata)
        except ArtifactMissing:
            pointer = new_pointer(artifact, metadata)
        self.write_json(key, pointer.model_dump(mode="json"))
        return pointer

    def pointer(self, name: str) -> Pointer:
        """Return the pointer of a name; ArtifactMissing lists the names."""
        try:
            return Pointer.model_validate(self.read_json(pointer_key(name)))
        except ArtifactMissing as error:
            raise ArtifactMissing(
                f"no pointer {name!r} in {self.url}: there is {', '.join(self.pointers()) or 'none yet'}. Set one with "
                f"`mirage store point {name} ARTIFACT`"
            ) from error
        except ValidationError as error:
            fault = error.errors()[0]["msg"]
            raise ArtifactDamaged(
                f"{pointer_key(name)} in {self.url} is not a pointer: {fault}. Remove it and set it again"
            ) from error

    def pointers(self) -> builtins.list[str]:
        """List the names of the pointers."""
        return [path.removeprefix(f"{POINTERS}/").removesuffix(".json") for path in self.names(POINTERS)]

    # Garbage

    def garbage(self, older_than_s: float, *, keep_runs: int | None = None) -> builtins.list[Garbage]:
        """Find what nothing refers to any more and what killed writers left, last written that long ago; no change."""
        return find_garbage(self.backend, older_than_s, keep_runs=keep_runs)

    def collect(self, garbage: Iterable[Garbage]) -> builtins.list[Garbage]:
        """Remove garbage found just before; return what was removed (the rest came into use meanwhile)."""
        return remove_garbage(self.backend, garbage)

    # Small records

    def write_json(self, path: str, value: Any) -> None:
        """Write a small JSON record (``runs/<id>.json``) atomically; an object gets its own sha256."""
        if isinstance(value, Mapping):
            data = dump_checked(value, allow_nan=False)
        else:
            data = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        self.backend.write(safe_name(path), data)

    def read_json(self, path: str) -> Any:
        """Read a small JSON record; ArtifactMissing or ArtifactDamaged names it."""
        try:
            data = self.backend.read(safe_name(path))
            return load_checked(data) if data.startswith(b"{") else read_json(data)
        except FileNotFoundError as error:
            raise ArtifactMissing(f"{path} is not in {self.url}") from error
        except ValueError as error:
            raise ArtifactDamaged(f"{path} in {self.url} is not the JSON that was written: {error}") from error

    def names(self, prefix: str) -> builtins.list[str]:
        """List the files below a folder (``runs/``), sorted, as paths for ``read_json``."""
        folder = safe_name(prefix.rstrip("/"))
        return sorted(f"{folder}/{name}" for name in self.backend.sizes(folder))


def _artifact_path(kind: str, fingerprint: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise InputError(f"got the fingerprint {fingerprint!r}, expected a sha256 of 64 hex digits")
    return _checked_path(f"{kind}/{fingerprint[:20]}")


def _checked_path(path: str) -> str:
    kind, _, name = path.partition("/")
    if kind in _NOT_KINDS or not name or "/" in name:
        raise InputError(f"got the artifact path {path!r}, expected <kind>/<first 20 digits of its fingerprint>")
    return safe_name(path)


def _damage_message(error: ArtifactDamaged, record: str | None, url: str) -> str:
    if record is None:
        return f"{error}. It changes while it is read: another process writes to {url}; stop it, then run again"
    return f"{error}. It was taken out of use ({record} in {url}): run again, its stage makes it again"


def _artifact(path: str, manifest: Manifest) -> Artifact:
    return Artifact(kind=manifest.kind, path=path, digest=manifest.digest, summary=manifest.summary)
