"""Everything that lies in a store, sorted by what it is: artifacts, checkpoints, records, what is out of use."""

from __future__ import annotations

import json
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from mirage_core.errors import ArtifactDamaged
from mirage_core.store.backends.base import Place
from mirage_core.store.backends.entries import Entry
from mirage_core.store.checkpoints import CHECKPOINTS
from mirage_core.store.digests import load_checked
from mirage_core.store.manifest import FILES, MANIFEST, Manifest, parse_manifest
from mirage_core.store.quarantine import QUARANTINE

ARTIFACT_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[0-9a-f]{20}")


def mentioned(value: Any) -> Iterator[str]:
    """Every artifact's path in a JSON value, wherever it stands."""
    if isinstance(value, str):
        if ARTIFACT_PATH.fullmatch(value):
            yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from mentioned(name)
            yield from mentioned(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from mentioned(inner)


def reachable(roots: Iterable[str], inputs: Mapping[str, Iterable[str]]) -> set[str]:
    """The roots, and all that they were made from, directly or not."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(inputs.get(path, ()))
    return found


logger = logging.getLogger(__name__)
Read = TypeVar("Read")
READS_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """What one listing of a store has found; names that fit nowhere are in none of these.

    ``manifests`` has None where a manifest cannot be read. ``folders`` are the file folders of artifacts by
    (artifact's path, folder); ``checkpoints`` the files by run; ``out_of_use`` the quarantine's records by path.
    """

    entries: Mapping[str, Entry]
    manifests: Mapping[str, Manifest | None]
    folders: Mapping[tuple[str, str], Mapping[str, Entry]]
    checkpoints: Mapping[str, Mapping[str, Entry]]
    out_of_use: Mapping[str, Mapping[str, Entry]]
    records: Mapping[str, Any]


def take_inventory(place: Place) -> Inventory:
    """List a store and read its manifests and records; ArtifactDamaged names a record that cannot be read."""
    entries = place.entries("")
    folders: dict[tuple[str, str], dict[str, Entry]] = defaultdict(dict)
    checkpoints: dict[str, dict[str, Entry]] = defaultdict(dict)
    out_of_use: dict[str, dict[str, Entry]] = defaultdict(dict)
    manifests, records = [], []
    for name, entry in entries.items():
        parts = name.split("/")
        if parts[0] == CHECKPOINTS and len(parts) > 2:
            checkpoints[parts[1]][name] = entry
        elif parts[0] == QUARANTINE and len(parts) == 4:
            out_of_use["/".join(parts[1:3])][name] = entry
        elif len(parts) == 2 and name.endswith(".json"):
            records.append(name)
        elif len(parts) > 2 and ARTIFACT_PATH.fullmatch("/".join(parts[:2])):
            if parts[2:] == [MANIFEST]:
                manifests.append("/".join(parts[:2]))
            elif parts[2].startswith(FILES) and len(parts) > 3:
                folders["/".join(parts[:2]), parts[2]][name] = entry
    return Inventory(
        entries=entries,
        manifests=_read_all(place, manifests, lambda path: _manifest(place, path)),
        folders=folders,
        checkpoints=checkpoints,
        out_of_use=out_of_use,
        records=_read_all(place, records, lambda name: _record(place, name)),
    )


def _read_all(place: Place, names: Iterable[str], read: Callable[[str], Read]) -> dict[str, Read]:
    """What each name gives; those that were removed meanwhile are left out."""
    listed = list(names)

    def tried(name: str) -> tuple[str, Read] | None:
        try:
            return name, read(name)
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(1 if place.local("") is not None else READS_AT_ONCE) as pool:
        return dict(pair for pair in pool.map(tried, listed) if pair is not None)


def _manifest(place: Place, path: str) -> Manifest | None:
    try:
        return parse_manifest(place.read(f"{path}/{MANIFEST}"), f"{path}/{MANIFEST} in {place.url}")
    except ArtifactDamaged as error:
        logger.warning("%s: `mirage store verify --repair` takes it out of use", error)
        return None


def _record(place: Place, name: str) -> Any:
    try:
        data = place.read(name)
        return load_checked(data) if data.startswith(b"{") else json.loads(data)
    except ValueError as error:
        raise ArtifactDamaged(
            f"{name} in {place.url} is damaged ({error}), so what it refers to is not known: mend or remove it, "
            "then collect again"
        ) from error
