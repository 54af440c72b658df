"""Garbage collection: find what nothing refers to and what killed writers have left, then remove it.

Artifacts that a record, a pointer or a kept artifact refers to are never removed. Files are removed only after a
record of it is written (see quarantine), so a publisher that fills the same folder at that moment starts again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mirage_core.store.backends.base import Backend
from mirage_core.store.backends.entries import Entry, Unfinished
from mirage_core.store.inventory import Inventory, artifact_paths, reachable, take_inventory
from mirage_core.store.manifest import MANIFEST, parse_manifest
from mirage_core.store.pointers import POINTERS
from mirage_core.store.quarantine import retire

RUNS = "runs"

GarbageKind = Literal["unfinished", "files", "quarantined", "checkpoint", "artifact", "record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """A removable item: its kind (``sort``), path, bytes, last write (seconds since 1970) and the reason (``why``)."""

    sort: GarbageKind
    path: str
    size: int
    since: float
    why: str
    upload: Unfinished | None = None


def find_garbage(
    backend: Backend, older_than_s: float, *, keep_runs: int | None = None, now: float | None = None
) -> list[Garbage]:
    """Find all that can go and was last written more than ``older_than_s`` seconds ago; changes nothing.

    ``keep_runs``: only that many of the newest run records (all, if None) keep what they refer to.
    """
    cutoff = (time.time() if now is None else now) - older_than_s
    uploads = backend.unfinished()
    inventory = take_inventory(backend)
    items = [
        *_unfinished(uploads),
        *_checkpoints(inventory, cutoff),
        *_folders(inventory),
        *_artifacts(inventory, _referenced(inventory, keep_runs, cutoff)),
        *_records(inventory),
    ]
    return [item for item in items if item.since <= cutoff or item.sort == "checkpoint"]


def remove_garbage(backend: Backend, items: Iterable[Garbage]) -> list[Garbage]:
    """Remove garbage; return what was removed, since other items came into use meanwhile."""
    return [item for item in items if _removed(backend, item)]


def _referenced(inventory: Inventory, keep_runs: int | None, cutoff: float) -> set[str]:
    """The paths of artifacts in use; a run record written after ``cutoff`` always keeps its references."""
    runs = sorted((name for name in inventory.records if name.startswith(f"{RUNS}/")), reverse=True)
    old = runs[keep_runs:] if keep_runs is not None else []
    dropped = {name for name in old if inventory.entries[name].modified <= cutoff}
    roots: set[str] = set()
    for name in set(inventory.records).difference(dropped):
        roots.update(artifact_paths(_current(name, inventory.records[name])))
    inputs = {
        path: list(artifact_paths(dict(manifest.about)))
        for path, manifest in inventory.manifests.items()
        if manifest is not None
    }
    return reachable(roots, inputs)


def _current(name: str, record: Any) -> Any:
    """A record without its history: a pointer keeps its target, not its earlier ones."""
    if name.startswith(f"{POINTERS}/") and isinstance(record, Mapping):
        return {key: value for key, value in record.items() if key != "history"}
    return record


def _unfinished(uploads: Iterable[Unfinished]) -> Iterator[Garbage]:
    for upload in uploads:
        why = "a write that was never finished"
        yield Garbage(sort="unfinished", path=upload.key, size=upload.size, since=upload.since, why=why, upload=upload)


def _checkpoints(inventory: Inventory, cutoff: float) -> Iterator[Garbage]:
    published = {path.split("/")[1] for path, manifest in inventory.manifests.items() if manifest is not None}
    for run, files in inventory.checkpoints.items():
        if run in published:
            yield _total("checkpoint", f"checkpoints/{run}", files, "its run is published")
        elif max(entry.modified for entry in files.values()) <= cutoff:
            yield _total("checkpoint", f"checkpoints/{run}", files, "its run does not go on")
        else:
            yield from _incomplete_steps(run, files, cutoff)


def _incomplete_steps(run: str, files: Mapping[str, Entry], cutoff: float) -> Iterator[Garbage]:
    """The steps of a live run whose upload was never completed."""
    for step in sorted({name.split("/")[2] for name in files}):
        path = f"checkpoints/{run}/{step}"
        step_files = {name: entry for name, entry in files.items() if name.startswith(f"{path}/")}
        if f"{path}/{MANIFEST}" not in step_files and max(e.modified for e in step_files.values()) <= cutoff:
            yield _total("checkpoint", path, step_files, "its upload was never finished")


def _folders(inventory: Inventory) -> Iterator[Garbage]:
    """The files folders that no manifest names; where the manifest cannot be read, all of them stay."""
    for (path, folder), files in inventory.folders.items():
        manifest = inventory.manifests.get(path)
        if path in inventory.manifests and (manifest is None or manifest.folder == folder):
            continue
        records = inventory.quarantined.get(path, {})
        if records:
            dates = {name: Entry(size=0, modified=entry.modified) for name, entry in records.items()}
            yield _total("quarantined", f"{path}/{folder}", {**files, **dates}, "taken out of use")
        else:
            yield _total("files", f"{path}/{folder}", files, "no manifest names it: its publisher was killed or lost")


def _artifacts(inventory: Inventory, referenced: set[str]) -> Iterator[Garbage]:
    for path, manifest in inventory.manifests.items():
        if manifest is not None and path not in referenced:
            files = inventory.folders.get((path, manifest.folder), {})
            all_files = {**files, f"{path}/{MANIFEST}": inventory.entries[f"{path}/{MANIFEST}"]}
            yield _total("artifact", path, all_files, "no run, pointer or kept artifact refers to it")


def _records(inventory: Inventory) -> Iterator[Garbage]:
    """The quarantine records of a path once its quarantined files are gone."""
    for path, records in inventory.quarantined.items():
        manifest = inventory.manifests.get(path)
        in_use = {manifest.folder} if manifest is not None else set()
        if not {folder for parent, folder in inventory.folders if parent == path} - in_use:
            for name, entry in records.items():
                yield _total("record", name, {name: entry}, "what it took out of use is gone")


def _total(sort: GarbageKind, path: str, files: Mapping[str, Entry], why: str) -> Garbage:
    size, since = sum(entry.size for entry in files.values()), max(entry.modified for entry in files.values())
    return Garbage(sort=sort, path=path, size=size, since=since, why=why)


def _removed(backend: Backend, item: Garbage) -> bool:
    """Remove one item; False if it is in use by now."""
    if item.upload is not None:
        backend.abort_upload(item.upload)
        return True
    if item.sort == "artifact":
        return _artifact_removed(backend, item)
    if item.sort in ("files", "quarantined"):
        path, _, folder = item.path.rpartition("/")
        if retire(backend, path, None, [folder], f"collected: {item.why}") is None:
            return False
    if item.sort == "checkpoint":
        for name in backend.sizes(item.path):
            if name.endswith(MANIFEST):
                backend.remove(f"{item.path}/{name}")  # first, so that a half-removed checkpoint is never complete
    backend.remove(item.path)
    return True


def _artifact_removed(backend: Backend, item: Garbage) -> bool:
    try:
        data = backend.read(f"{item.path}/{MANIFEST}")
    except FileNotFoundError:
        return False
    folder = parse_manifest(data, item.path).folder
    if retire(backend, item.path, data, [folder], f"collected: {item.why}") is None:
        return False
    backend.remove(f"{item.path}/{folder}")
    return True
