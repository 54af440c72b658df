"""The store: complete, verified, content-addressed artifacts found by the fingerprint of what they depend on."""

from __future__ import annotations

import builtins
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mirage_core.errors import ArtifactDamaged, ArtifactError, ArtifactMissing, InputError
from mirage_core.store import checkpoints
from mirage_core.store.manifest import MANIFEST, Manifest, describe_folder, digest_of, safe_name
from mirage_core.store.places import TEMPORARY, Place, open_place
from mirage_core.store.sealed import every_fault, find_sealed, local_files, read_sealed, seal
from mirage_core.types import Artifact

logger = logging.getLogger(__name__)
_NOT_KINDS = (checkpoints.CHECKPOINTS, "runs", TEMPORARY)


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
        self, kind: str, fingerprint: str, folder: Path, *, summary: Mapping[str, Any], about: Mapping[str, Any]
    ) -> Artifact:
        """Store every file of a folder as one artifact; a good artifact of that fingerprint wins and is returned."""
        there = self.find(kind, fingerprint)
        if there is not None:
            return there
        files = describe_folder(folder)
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        manifest = Manifest(
            kind=kind,
            fingerprint=fingerprint,
            digest=digest_of(files),
            files=files,
            summary=dict(summary),
            about={"created": now, **about},
        )
        path = _artifact_path(kind, fingerprint)
        return _handle(path, seal(self.place, path, folder, manifest))

    def fetch(self, artifact: Artifact) -> Path:
        """The artifact's files in a local folder (read only: it may be the store's own), every sha256 verified.

        Raises ArtifactMissing or ArtifactDamaged, naming the artifact and the file.
        """
        return local_files(self.place, self.cache, artifact.path, self.manifest(artifact))

    def manifest(self, artifact: Artifact) -> Manifest:
        """The artifact's manifest; ArtifactMissing when it is not there or now stands for other content."""
        path = _checked_path(artifact.path)
        try:
            manifest = read_sealed(self.place, path)
        except FileNotFoundError as problem:
            raise ArtifactMissing(
                f"{path} is not in {self.url}: it was removed or never completed; run its stage again"
            ) from problem
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
        except (ArtifactMissing, ArtifactDamaged) as problem:
            return [str(problem)]

    def list(self, kind: str | None = None) -> builtins.list[Artifact]:
        """The artifacts that have a readable manifest, newest first; unreadable ones are told as warnings."""
        prefix = f"{safe_name(kind)}/" if kind else ""
        names = self.place.sizes(kind or "")
        paths = sorted({prefix + name.removesuffix(f"/{MANIFEST}") for name in names if name.endswith(f"/{MANIFEST}")})
        dated = []
        for path in paths:
            if path.count("/") != 1 or path.split("/")[0] in _NOT_KINDS:
                continue
            try:
                manifest = read_sealed(self.place, path)
            except FileNotFoundError:
                continue  # removed while we were listing
            except ArtifactDamaged as problem:
                logger.warning("%s; left out of the list", problem)
                continue
            dated.append((str(manifest.about.get("created", "")), _handle(path, manifest)))
        return [artifact for _, artifact in sorted(dated, key=lambda pair: pair[0], reverse=True)]

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

    def save_checkpoint(self, run: str, step: int, folder: Path) -> None:
        """Keep a training run's state after ``step`` steps, manifest last; the last two are kept."""
        checkpoints.save(self.place, run, step, folder)

    def latest_checkpoint(self, run: str) -> tuple[int, Path] | None:
        """The newest good checkpoint of a run as (step, verified local folder); faulty ones are passed over."""
        return checkpoints.latest(self.place, self.cache, run)

    def drop_checkpoints(self, run: str) -> None:
        """Forget every checkpoint of a run."""
        checkpoints.drop(self.place, run)

    # Small records

    def write_json(self, path: str, value: Any) -> None:
        """Write a small JSON record (``runs/<id>.json``), atomically."""
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
        self.place.write(safe_name(path), text.encode() + b"\n")

    def read_json(self, path: str) -> Any:
        """Read a small JSON record; ArtifactMissing or ArtifactDamaged name it."""
        try:
            return json.loads(self.place.read(safe_name(path)))
        except FileNotFoundError as problem:
            raise ArtifactMissing(f"{path} is not in {self.url}") from problem
        except ValueError as problem:
            raise ArtifactDamaged(f"{path} in {self.url} is not JSON: {problem}") from problem

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


def _handle(path: str, manifest: Manifest) -> Artifact:
    return Artifact(kind=manifest.kind, path=path, digest=manifest.digest, summary=manifest.summary)
