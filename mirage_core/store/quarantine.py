"""Taking things out of use: first a record of it, then the manifest; the files stay until they are collected.

The record is what makes this safe beside publishers, on stores that know no transactions. A publisher looks at a
path's records before it puts its files and after it has put its manifest, and whoever takes something out of use
writes the record before it looks at the manifest. So one of the two sees the other: the publisher starts anew in a
folder of another edition, or the taker finds a manifest it has not judged and leaves it. No file of an edition that is
out of use is ever part of a new artifact.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mirage_core.errors import ArtifactDamaged
from mirage_core.store.artifact_folder import file_faults, read_sealed
from mirage_core.store.backends.base import Place
from mirage_core.store.digests import dump_checked
from mirage_core.store.manifest import FILES, MANIFEST, parse_manifest

logger = logging.getLogger(__name__)
QUARANTINE = "quarantine"
_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What has been taken out of use of one path: the names of the records, oldest first."""

    names: frozenset[str]

    @property
    def edition(self) -> str:
        """What a folder must be called by to be none of those: empty where nothing was taken out of use."""
        return max(self.names).removesuffix(".json").rpartition("-")[2] if self.names else ""


def records(place: Place, path: str) -> Records:
    """The records of a path."""
    return Records(names=frozenset(filter(_NAME.fullmatch, place.sizes(f"{QUARANTINE}/{path}"))))


def take_out(place: Place, path: str, digest: str | None, name: str | None, fault: str) -> str | None:
    """Take a damaged artifact out of use, if a second look finds it so; the key of its record, or None.

    None: it has gone, another digest stands there now, or it reads well. ``name`` is the file at fault, None for any;
    ``digest`` is None where its manifest is what is broken.
    """
    try:
        data = place.read(f"{path}/{MANIFEST}")
    except FileNotFoundError:
        return None
    try:
        manifest = parse_manifest(data, f"{path}/{MANIFEST} in {place.url}")
    except ArtifactDamaged as error:
        return retire(place, path, data, file_folders(place, path), str(error))
    if manifest.digest != digest:
        return None
    suspects = [entry for entry in manifest.files if name in (None, entry.name)]
    faults = file_faults(place, path, manifest, suspects)
    if not faults:
        logger.warning("%s in %s reads well the second time and stays in use (before: %s)", path, place.url, fault)
        return None
    return retire(place, path, data, [manifest.folder], "; ".join(faults))


def retire(place: Place, path: str, judged: bytes | None, folders: Sequence[str], why: str) -> str | None:
    """Write the record of ``folders`` and remove the manifest that was ``judged``; the record's key.

    None, and nothing changes, where another manifest stands there by now. ``judged`` is None for folders that no
    manifest names; None is given, too, where one names them by now.
    """
    now = datetime.now(UTC)
    key = f"{QUARANTINE}/{path}/{now.strftime('%Y%m%dT%H%M%S.%fZ')}-{secrets.token_hex(4)}.json"
    record = {
        "path": path,
        "since": now.isoformat(timespec="microseconds"),
        "fault": why,
        "folders": list(folders),
        "manifest": None if judged is None else judged.decode(errors="replace"),
    }
    place.write(key, dump_checked(record))
    if judged is not None:
        place.take(f"{path}/{MANIFEST}", judged)
    if _in_use(place, path, () if judged is not None else folders):
        place.remove(key)
        return None
    return key


def _in_use(place: Place, path: str, folders: Sequence[str]) -> bool:
    """Whether a manifest stands there that names one of ``folders`` (any, where none is given) or cannot be read."""
    try:
        manifest = read_sealed(place, path)
    except FileNotFoundError:
        return False
    except ArtifactDamaged:
        return True
    return not folders or manifest.folder in folders


def file_folders(place: Place, path: str) -> list[str]:
    """The folders of files at a path, in use or not."""
    return sorted({name.split("/")[0] for name in place.sizes(path) if name.startswith(FILES)})
