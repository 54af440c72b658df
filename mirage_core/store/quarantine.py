"""Quarantine: a damaged artifact gets a record, then loses its manifest; its files stay until they are collected.

The record makes this safe beside concurrent publishers, on stores without transactions. A publisher reads a path's
records before it uploads files and after it has created its manifest; whoever quarantines writes the record before it
checks the manifest. So one of the two sees the other: the publisher starts again in a folder of another edition, or
the manifest turns out to be a newer one and stays. No file of a quarantined edition is ever part of a new artifact.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mirage_core.errors import ArtifactDamaged
from mirage_core.store.artifact_folder import file_faults, read_manifest
from mirage_core.store.backends.base import Backend
from mirage_core.store.digests import dump_checked
from mirage_core.store.manifest import FILES, MANIFEST, parse_manifest

logger = logging.getLogger(__name__)
QUARANTINE = "quarantine"
_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """The names of a path's quarantine records."""

    names: frozenset[str]

    @property
    def edition(self) -> str:
        """The suffix that distinguishes a new files folder from quarantined ones; empty without records."""
        return max(self.names).removesuffix(".json").rpartition("-")[2] if self.names else ""


def records(backend: Backend, path: str) -> Records:
    """List the quarantine records of a path."""
    return Records(names=frozenset(filter(_NAME.fullmatch, backend.sizes(f"{QUARANTINE}/{path}"))))


def quarantine_if_damaged(backend: Backend, path: str, digest: str | None, name: str | None, fault: str) -> str | None:
    """Read an artifact again and quarantine it if it is damaged; return the key of its record, else None.

    None: it was removed, another digest is stored there now, or it verifies. ``name`` is the damaged file, None for
    any; ``digest`` is None where the manifest is what is broken.
    """
    try:
        data = backend.read(f"{path}/{MANIFEST}")
    except FileNotFoundError:
        return None
    try:
        manifest = parse_manifest(data, f"{path}/{MANIFEST} in {backend.url}")
    except ArtifactDamaged as error:
        return retire(backend, path, data, file_folders(backend, path), str(error))
    if manifest.digest != digest:
        return None
    suspects = [entry for entry in manifest.files if name in (None, entry.name)]
    faults = file_faults(backend, path, manifest, suspects)
    if not faults:
        logger.warning("%s in %s verifies when read again and stays in use (first: %s)", path, backend.url, fault)
        return None
    return retire(backend, path, data, [manifest.folder], "; ".join(faults))


def retire(backend: Backend, path: str, manifest: bytes | None, folders: Sequence[str], reason: str) -> str | None:
    """Write the record of ``folders`` and remove their ``manifest`` (its bytes); return the record's key.

    None, and nothing changes, if another manifest is stored there by now. ``manifest`` is None for folders without
    one; then None is returned, too, if a manifest names one of them by now.
    """
    now = datetime.now(UTC)
    key = f"{QUARANTINE}/{path}/{now.strftime('%Y%m%dT%H%M%S.%fZ')}-{secrets.token_hex(4)}.json"
    record = {
        "path": path,
        "since": now.isoformat(timespec="microseconds"),
        "fault": reason,
        "folders": list(folders),
        "manifest": None if manifest is None else manifest.decode(errors="replace"),
    }
    backend.write(key, dump_checked(record))
    if manifest is not None:
        backend.delete_if_unchanged(f"{path}/{MANIFEST}", manifest)
    if _in_use(backend, path, () if manifest is not None else folders):
        backend.remove(key)
        return None
    return key


def _in_use(backend: Backend, path: str, folders: Sequence[str]) -> bool:
    """Whether a manifest is stored that names one of ``folders`` (any, if empty) or cannot be read."""
    try:
        manifest = read_manifest(backend, path)
    except FileNotFoundError:
        return False
    except ArtifactDamaged:
        return True
    return not folders or manifest.folder in folders


def file_folders(backend: Backend, path: str) -> list[str]:
    """List the files folders of a path, in use or not."""
    return sorted({name.split("/")[0] for name in backend.sizes(path) if name.startswith(FILES)})
