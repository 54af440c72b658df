"""Collecting garbage: what nobody refers to any more and what killed writers have left, found first, then removed.

Nothing that a record, a pointer or a kept artifact refers to is ever taken. Files are removed only
after a record of it (see quarantine), so a publisher that fills the same folder at that moment starts anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mirage_core.store.backends.base import Place
from mirage_core.store.backends.entries import Entry, Unfinished
from mirage_core.store.inventory import Inventory, mentioned, reachable, take_inventory
from mirage_core.store.manifest import MANIFEST, parse_manifest
from mirage_core.store.pointers import POINTERS
from mirage_core.store.quarantine import retire

RUNS = "runs"

Sort = Literal["unfinished", "files", "quarantined", "checkpoint", "artifact", "record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """One thing that can go: where it is, its bytes, when it was written last (seconds since 1970), and why."""

    sort: Sort
    path: str
    size: int
    since: float
    why: str
    upload: Unfinished | None = None


def find_garbage(
    place: Place, older_than_s: float, *, keep_runs: int | None = None, now: float | None = None
) -> list[Garbage]:
    """All that can go and was written last more than ``older_than_s`` seconds ago; nothing is changed.

    ``keep_runs``: only that many of the newest run records (all, where None) keep what they refer to.
    """
    cutoff = (time.time() if now is None else now) - older_than_s
    uploads = place.unfinished()
    there = take_inventory(place)
    found = [
        *_uploads(uploads),
        *_checkpoints(there, cutoff),
        *_folders(there),
        *_artifacts(there, _referred(there, keep_runs, cutoff)),
        *_records(there),
    ]
    return [item for item in found if item.since <= cutoff or item.sort == "checkpoint"]


def remove_garbage(place: Place, found: Iterable[Garbage]) -> list[Garbage]:
    """Remove what was found; gives what really went, the rest came into use meanwhile."""
    return [item for item in found if _removed(place, item)]


def _referred(there: Inventory, keep_runs: int | None, cutoff: float) -> set[str]:
    """The paths that something keeps; a run that has written its record lately always does."""
    roots: set[str] = set()
    runs = sorted((name for name in there.records if name.startswith(f"{RUNS}/")), reverse=True)
    old = runs[keep_runs:] if keep_runs is not None else []
    dropped = {name for name in old if there.entries[name].modified <= cutoff}
    for name in set(there.records).difference(dropped):
        roots.update(mentioned(_present(name, there.records[name])))
    inputs = {path: list(mentioned(dict(found.about))) for path, found in there.manifests.items() if found is not None}
    return reachable(roots, inputs)


def _present(name: str, record: Any) -> Any:
    """A record without what it tells of the past: a pointer keeps what it points at, not what it once did."""
    if name.startswith(f"{POINTERS}/") and isinstance(record, Mapping):
        return {key: value for key, value in record.items() if key != "history"}
    return record


def _uploads(uploads: Iterable[Unfinished]) -> Iterator[Garbage]:
    for upload in uploads:
        why = "a write that was never finished"
        yield Garbage(sort="unfinished", path=upload.key, size=upload.size, since=upload.since, why=why, upload=upload)


def _checkpoints(there: Inventory, cutoff: float) -> Iterator[Garbage]:
    published = {path.split("/")[1] for path, manifest in there.manifests.items() if manifest is not None}
    for run, files in there.checkpoints.items():
        if run in published:
            yield _sum("checkpoint", f"checkpoints/{run}", files, "its run is published")
        elif max(entry.modified for entry in files.values()) <= cutoff:
            yield _sum("checkpoint", f"checkpoints/{run}", files, "its run does not go on")
        else:
            yield from _steps(run, files, cutoff)


def _steps(run: str, files: Mapping[str, Entry], cutoff: float) -> Iterator[Garbage]:
    """The steps of a live run that were never completed."""
    for step in sorted({name.split("/")[2] for name in files}):
        path = f"checkpoints/{run}/{step}"
        inside = {name: entry for name, entry in files.items() if name.startswith(f"{path}/")}
        if f"{path}/{MANIFEST}" not in inside and max(entry.modified for entry in inside.values()) <= cutoff:
            yield _sum("checkpoint", path, inside, "its upload was never finished")


def _folders(there: Inventory) -> Iterator[Garbage]:
    """The file folders that no manifest names; where the manifest cannot be read, all of them stay."""
    for (path, folder), files in there.folders.items():
        manifest = there.manifests.get(path)
        if path in there.manifests and (manifest is None or manifest.folder == folder):
            continue
        taken = there.out_of_use.get(path, {})
        if taken:
            yield _sum("quarantined", f"{path}/{folder}", {**files, **_timed(taken)}, "taken out of use")
        else:
            yield _sum("files", f"{path}/{folder}", files, "no manifest names it: its publisher was killed or lost")


def _artifacts(there: Inventory, referred: set[str]) -> Iterator[Garbage]:
    for path, manifest in there.manifests.items():
        if manifest is not None and path not in referred:
            files = there.folders.get((path, manifest.folder), {})
            own = {**files, f"{path}/{MANIFEST}": there.entries[f"{path}/{MANIFEST}"]}
            yield _sum("artifact", path, own, "no run, pointer or kept artifact refers to it")


def _records(there: Inventory) -> Iterator[Garbage]:
    """Records of what was taken out of use, once its files are gone."""
    for path, records in there.out_of_use.items():
        manifest = there.manifests.get(path)
        in_use = {manifest.folder} if manifest is not None else set()
        if not {folder for at, folder in there.folders if at == path} - in_use:
            for name, entry in records.items():
                yield _sum("record", name, {name: entry}, "what it took out of use is gone")


def _sum(sort: Sort, path: str, files: Mapping[str, Entry], why: str) -> Garbage:
    size, since = sum(entry.size for entry in files.values()), max(entry.modified for entry in files.values())
    return Garbage(sort=sort, path=path, size=size, since=since, why=why)


def _timed(records: Mapping[str, Entry]) -> dict[str, Entry]:
    """Records for their time only."""
    return {name: Entry(size=0, modified=entry.modified) for name, entry in records.items()}


def _removed(place: Place, item: Garbage) -> bool:
    if item.upload is not None:
        place.abandon(item.upload)
        return True
    if item.sort == "artifact":
        return _artifact_removed(place, item)
    if item.sort in ("files", "quarantined"):
        path, _, folder = item.path.rpartition("/")
        if retire(place, path, None, [folder], f"collected: {item.why}") is None:
            return False
    if item.sort == "checkpoint":
        for name in place.sizes(item.path):
            if name.endswith(MANIFEST):
                place.remove(f"{item.path}/{name}")  # first, so that nothing looks complete while it goes
    place.remove(item.path)
    return True


def _artifact_removed(place: Place, item: Garbage) -> bool:
    try:
        data = place.read(f"{item.path}/{MANIFEST}")
    except FileNotFoundError:
        return False
    folder = parse_manifest(data, item.path).folder
    if retire(place, item.path, data, [folder], f"collected: {item.why}") is None:
        return False
    place.remove(f"{item.path}/{folder}")
    return True
