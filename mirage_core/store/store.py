"""The store: complete, verified, content-addressed artifacts found by the fingerprint of what they depend on."""

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
from mirage_core.store import checkpoints
from mirage_core.store.artifact_folder import FileDamaged, every_fault, find_sealed, local_files, read_sealed
from mirage_core.store.backends.base import Place, open_place
from mirage_core.store.backends.entries import RESULTS, TEMPORARY
from mirage_core.store.digests import dump_checked, load_checked
from mirage_core.store.garbage import Garbage, find_garbage, remove_garbage
from mirage_core.store.manifest import MANIFEST, Manifest, describe_folder, digest_of, safe_name
from mirage_core.store.pointers import POINTERS, Pointer, new_pointer, pointer_key
from mirage_core.store.publish import publish_sealed
from mirage_core.store.quarantine import QUARANTINE, take_out
from mirage_core.types import Artifact, Progress

logger = logging.getLogger(__name__)
_NOT_KINDS = (checkpoints.CHECKPOINTS, "runs", "answers", RESULTS, POINTERS, QUARANTINE, TEMPORARY)


@dataclass(frozen=True)
class Store:
    """Artifacts under one root.

    Layout: ``<kind>/<fingerprint[:20]>/manifest.json`` beside ``files-<digest[:12]>/<name>``. Files come first
    and the manifest last, so what has a manifest is complete; two publishers never write into one another.
    Everything raises StoreUnavailable (transient) when the root does not answer or is full.
    """

    place: Place
    cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "mirage")

    @classmethod
    def open(cls, url: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None) -> Store:
        """Open ``/path``, ``~/path``, ``file:///path`` or ``s3://bucket/prefix``; ``cache`` is for remote ones."""
        place = open_place(os.fspath(url))
        return cls(place) if cache is None else cls(place, Path(cache))

    @property
    def url(self) -> str:
        """The root: an absolute path, or the URL it was opened with."""
        return self.place.url

    # Artifacts

    def find(self, kind: str, fingerprint: str) -> Artifact | None:
        """The complete artifact of that fingerprint, or None; a faulty one counts as absent, with a warning. Cheap."""
        path = _artifact_path(kind, fingerprint)
        manifest = find_sealed(self.place, path)
        if manifest is None:
            return None
        if (manifest.kind, manifest.fingerprint) != (kind, fingerprint):
            logger.warning("%s in %s belongs to the fingerprint %s", path, self.url, manifest.fingerprint)
            return None
        return _handle(path, manifest)

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
        """Store every file of a folder as one artifact; a good artifact of that fingerprint wins and is returned.

        Files that a killed upload of the same content has left are not sent again.
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

        return _handle(path, publish_sealed(self.place, path, folder, describe, progress))

    def fetch(self, artifact: Artifact, progress: Progress | None = None) -> Path:
        """The artifact's files in a local folder (read only: it may be the store's own), every sha256 verified.

        Raises ArtifactMissing or ArtifactDamaged, naming the artifact and the file. What is damaged is taken out of
        use before: the stage that made it runs again in the next run.
        """
        for attempt in (1, 2):
            try:
                return local_files(self.place, self.cache, artifact.path, self.manifest(artifact), progress)
            except ArtifactDamaged as error:
                name = error.name if isinstance(error, FileDamaged) else None
                try:
                    kept = take_out(self.place, artifact.path, artifact.digest, name, str(error))
                except ArtifactError as other:
                    raise ArtifactDamaged(f"{error}. It could not be taken out of use: {other}") from error
                if kept is not None or attempt == 2:
                    raise ArtifactDamaged(_mended(error, kept, self.url)) from error
                # Good at the second look: misread, or made anew meanwhile.
        raise AssertionError("unreachable")

    def quarantine(self, artifact: Artifact, fault: str) -> str | None:
        """Take a damaged artifact out of use: ``find`` gives None then, and its stage runs again.

        Its bytes are looked at again first. Gives the name of the record (``read_json`` takes it), None where nothing
        was taken out: it reads well, has gone, or was made anew with another digest.
        """
        return take_out(self.place, _checked_path(artifact.path), artifact.digest, None, fault)

    def manifest(self, artifact: Artifact) -> Manifest:
        """The artifact's manifest; ArtifactMissing when it is not there or now stands for other content."""
        path = _checked_path(artifact.path)
        try:
            manifest = read_sealed(self.place, path)
        except FileNotFoundError as error:
            raise ArtifactMissing(
                f"{path} is not in {self.url}: it was removed or never completed; run its stage again"
            ) from error
        if manifest.digest != artifact.digest:
            raise ArtifactMissing(
                f"{path} in {self.url} has the digest {manifest.digest[:12]}, expected {artifact.digest[:12]}: it was "
                "made anew meanwhile; run the stages that use it again"
            )
        return manifest

    def verify(self, artifact: Artifact) -> builtins.list[str]:
        """Every fault of an artifact, read byte by byte from the store itself; empty when it is good."""
        try:
            return every_fault(self.place, artifact.path, self.manifest(artifact))
        except (ArtifactMissing, ArtifactDamaged) as error:
            return [str(error)]

    def list(self, kind: str | None = None) -> builtins.list[Artifact]:
        """The artifacts that have a readable manifest, newest first; unreadable ones are told as warnings."""
        dated = []
        for path in self._paths(kind):
            try:
                manifest = read_sealed(self.place, path)
            except FileNotFoundError:
                continue  # removed while we were listing
            except ArtifactDamaged as error:
                logger.warning("%s; left out of the list", error)
                continue
            dated.append((str(manifest.about.get("created", "")), _handle(path, manifest)))
        return [artifact for _, artifact in sorted(dated, key=lambda pair: pair[0], reverse=True)]

    def unreadable(self) -> builtins.list[tuple[Artifact, str]]:
        """The artifacts whose manifest is broken, so that ``list`` leaves them out, each with its fault."""
        found = []
        for path in self._paths(None):
            try:
                read_sealed(self.place, path)
            except FileNotFoundError:
                continue
            except ArtifactDamaged as error:
                found.append((Artifact(kind=path.split("/")[0], path=path, digest=""), str(error)))
        return found

    def _paths(self, kind: str | None) -> builtins.list[str]:
        """Where there is a manifest of an artifact, good or not."""
        prefix = f"{safe_name(kind)}/" if kind else ""
        names = self.place.sizes(kind or "")
        paths = {prefix + name.removesuffix(f"/{MANIFEST}") for name in names if name.endswith(f"/{MANIFEST}")}
        return sorted(path for path in paths if path.count("/") == 1 and path.split("/")[0] not in _NOT_KINDS)

    def get(self, reference: str) -> Artifact:
        """The one artifact whose path is, or whose path or digest starts with, the reference."""
        wanted = reference.strip().strip("/")
        found = [a for a in self.list() if wanted and (a.path.startswith(wanted) or a.digest.startswith(wanted))]
        exact = [artifact for artifact in found if artifact.path == wanted]
        if len(exact or found) == 1:
            return (exact or found)[0]
        if not found:
            raise ArtifactMissing(f"no artifact {reference!r} in {self.url}: `mirage store ls` shows what is there")
        paths = ", ".join(artifact.path for artifact in found[:8])
        raise ArtifactError(
            f"{reference!r} is not one artifact but {len(found)} in {self.url}: {paths}; give more of it"
        )

    def remove(self, artifact: Artifact) -> None:
        """Remove an artifact: its manifest first, so that it never looks complete while it goes."""
        path = _checked_path(artifact.path)
        self.place.remove(f"{path}/{MANIFEST}")
        self.place.remove(path)

    def check_writable(self) -> None:
        """Write and remove something small: what cannot be written is better known before hours of work."""
        self.place.probe()

    # Checkpoints of training runs; ``run`` is the fingerprint of the training stage

    def save_checkpoint(
        self, run: str, step: int, folder: Path, progress: Progress | None = None, *, keep: int = checkpoints.KEPT
    ) -> None:
        """Keep a training run's state after ``step`` steps, manifest last; the last two are kept.

        Files that have not changed since the checkpoint before are copied inside the store.
        """
        checkpoints.save(self.place, run, step, folder, progress, keep=keep)

    def latest_checkpoint(self, run: str, progress: Progress | None = None) -> tuple[int, Path] | None:
        """The newest good checkpoint of a run as (step, verified local folder); faulty ones are removed."""
        return checkpoints.latest(self.place, self.cache, run, progress)

    def drop_checkpoints(self, run: str) -> None:
        """Forget every checkpoint of a run."""
        checkpoints.drop(self.place, run)

    # Named pointers

    def point(self, name: str, artifact: Artifact, about: Mapping[str, Any] | None = None) -> Pointer:
        """Let a name (``nightly``) stand for an artifact that is there; the last writer wins, history is kept.

        Raises ArtifactMissing when the artifact is not in the store.
        """
        self.manifest(artifact)
        key, told = pointer_key(name), dict(about or {})
        try:
            pointer = self.pointed(name).moved(artifact, told)
        except ArtifactMissing:
            pointer = new_pointer(artifact, told)
        self.write_json(key, pointer.model_dump(mode="json"))
        return pointer

    def pointed(self, name: str) -> Pointer:
        """What a name stands for; ArtifactMissing tells the names there are."""
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
        """The names of the pointers."""
        return [path.removeprefix(f"{POINTERS}/").removesuffix(".json") for path in self.names(POINTERS)]

    # Garbage

    def garbage(self, older_than_s: float, *, keep_runs: int | None = None) -> builtins.list[Garbage]:
        """What nothing refers to any more and what killed writers left, written last so long ago; nothing changes."""
        return find_garbage(self.place, older_than_s, keep_runs=keep_runs)

    def collect(self, garbage: Iterable[Garbage]) -> builtins.list[Garbage]:
        """Remove garbage that was found a moment ago; gives what really went, the rest came into use meanwhile."""
        return remove_garbage(self.place, garbage)

    # Small records

    def write_json(self, path: str, value: Any) -> None:
        """Write a small JSON record (``runs/<id>.json``), atomically; an object is given a sha256 of its own."""
        if isinstance(value, Mapping):
            data = dump_checked(value, allow_nan=False)
        else:
            data = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        self.place.write(safe_name(path), data)

    def read_json(self, path: str) -> Any:
        """Read a small JSON record; ArtifactMissing or ArtifactDamaged name it."""
        try:
            data = self.place.read(safe_name(path))
            return load_checked(data) if data.startswith(b"{") else json.loads(data)
        except FileNotFoundError as error:
            raise ArtifactMissing(f"{path} is not in {self.url}") from error
        except ValueError as error:
            raise ArtifactDamaged(f"{path} in {self.url} is not the JSON that was written: {error}") from error

    def names(self, prefix: str) -> builtins.list[str]:
        """The files below a folder (``runs/``), sorted, as paths that ``read_json`` takes."""
        folder = safe_name(prefix.rstrip("/"))
        return sorted(f"{folder}/{name}" for name in self.place.sizes(folder))


def _artifact_path(kind: str, fingerprint: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", fingerprint):
        raise InputError(f"got the fingerprint {fingerprint!r}, expected a sha256 of 64 hex digits")
    return _checked_path(f"{kind}/{fingerprint[:20]}")


def _checked_path(path: str) -> str:
    kind, _, name = path.partition("/")
    if kind in _NOT_KINDS or not name or "/" in name:
        raise InputError(f"got the artifact path {path!r}, expected <kind>/<first 20 digits of its fingerprint>")
    return safe_name(path)


def _mended(problem: ArtifactDamaged, record: str | None, url: str) -> str:
    if record is None:
        return f"{problem}. It changes while it is read: something else writes to {url}; stop that, then run again"
    return f"{problem}. It was taken out of use ({record} in {url}): run again, its stage makes it anew"


def _handle(path: str, manifest: Manifest) -> Artifact:
    return Artifact(kind=manifest.kind, path=path, digest=manifest.digest, summary=manifest.summary)
