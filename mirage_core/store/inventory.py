"""The inventory of a store: all files by what they are, and which artifacts refer to which."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from mirage_core.errors import ArtifactDamaged
from mirage_core.json_values import read_json
from mirage_core.store.backends.base import Backend
from mirage_core.store.backends.entries import Entry
from mirage_core.store.checkpoints import CHECKPOINTS
from mirage_core.store.digests import load_checked
from mirage_core.store.manifest import FILES, MANIFEST, Manifest, parse_manifest
from mirage_core.store.quarantine import QUARANTINE

logger = logging.getLogger(__name__)
Content = TypeVar("Content")
READS_AT_ONCE = 8
ARTIFACT_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[0-9a-f]{20}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The result of one listing of a store; files of unknown names are in ``entries`` only.

    ``manifests`` has None for a manifest that cannot be read. ``folders`` are the files folders of artifacts by
    (artifact's path, folder), ``checkpoints`` the files by run, ``quarantined`` the quarantine records by path.
    """

    entries: Mapping[str, Entry]
    manifests: Mapping[str, Manifest | None]
    folders: Mapping[tuple[str, str], Mapping[str, Entry]]
    checkpoints: Mapping[str, Mapping[str, Entry]]
    quarantined: Mapping[str, Mapping[str, Entry]]
    records: Mapping[str, Any]


def take_inventory(backend: Backend) -> Inventory:
    """List a store and read its manifests and records; ArtifactDamaged names a record that cannot be read."""
    entries = backend.entries("")
    folders: dict[tuple[str, str], dict[str, Entry]] = defaultdict(dict)
    checkpoints: dict[str, dict[str, Entry]] = defaultdict(dict)
    quarantined: dict[str, dict[str, Entry]] = defaultdict(dict)
    manifests, records = [], []
    for name, entry in entries.items():
        parts = name.split("/")
        if parts[0] == CHECKPOINTS and len(parts) > 2:
            checkpoints[parts[1]][name] = entry
        elif parts[0] == QUARANTINE and len(parts) == 4:
            quarantined["/".join(parts[1:3])][name] = entry
        elif len(parts) == 2 and name.endswith(".json"):
            records.append(name)
        elif len(parts) > 2 and ARTIFACT_PATH.fullmatch("/".join(parts[:2])):
            if parts[2:] == [MANIFEST]:
                manifests.append("/".join(parts[:2]))
            elif parts[2].startswith(FILES) and len(parts) > 3:
                folders["/".join(parts[:2]), parts[2]][name] = entry
    return Inventory(
        entries=entries,
        manifests=_read_all(backend, manifests, lambda path: _manifest(backend, path)),
        folders=folders,
        checkpoints=checkpoints,
        quarantined=quarantined,
        records=_read_all(backend, records, lambda name: _record(backend, name)),
    )


def _read_all(backend: Backend, names: Iterable[str], read: Callable[[str], Content]) -> dict[str, Content]:
    """The content of each name; names that were removed meanwhile are left out."""

    def read_existing(name: str) -> tuple[str, Content] | None:
        try:
            return name, read(name)
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(1 if backend.local("") is not None else READS_AT_ONCE) as pool:
        return dict(pair for pair in pool.map(read_existing, names) if pair is not None)


def _manifest(backend: Backend, path: str) -> Manifest | None:
    try:
        return parse_manifest(backend.read(f"{path}/{MANIFEST}"), f"{path}/{MANIFEST} in {backend.url}")
    except ArtifactDamaged as error:
        logger.warning("%s: `mirage store verify --repair` takes it out of use", error)
        return None


def _record(backend: Backend, name: str) -> Any:
    try:
        data = backend.read(name)
        return load_checked(data) if data.startswith(b"{") else read_json(data)
    except ValueError as error:
        raise ArtifactDamaged(
            f"{name} in {backend.url} is damaged ({error}), so its references are unknown: repair or remove it, "
            "then collect again"
        ) from error


def artifact_paths(value: Any) -> Iterator[str]:
    """Yield every artifact's path in a JSON value, at any depth."""
    if isinstance(value, str):
        if ARTIFACT_PATH.fullmatch(value):
            yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from artifact_paths(name)
            yield from artifact_paths(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from artifact_paths(item)


def reachable(roots: Iterable[str], inputs: Mapping[str, Iterable[str]]) -> set[str]:
    """The roots and all their inputs, direct or not."""
    reached: set[str] = set()
    waiting = list(roots)
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting.extend(inputs.get(path, ()))
    return reached
