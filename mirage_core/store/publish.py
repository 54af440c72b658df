"""Publishing a sealed folder: its files, then its manifest; the first good manifest of a path wins."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from mirage_core.errors import ArtifactDamaged, ArtifactError, StoreUnavailable
from mirage_core.store.artifact_folder import find_sealed, read_sealed, size_faults
from mirage_core.store.backends.base import Place
from mirage_core.store.backends.entries import Entry
from mirage_core.store.manifest import FILES, MANIFEST, Manifest
from mirage_core.store.quarantine import Records, file_folders, records, retire
from mirage_core.store.transfer import Meter, Sources, upload
from mirage_core.types import Progress

logger = logging.getLogger(__name__)
ATTEMPTS = 8
SETTLE_S = 2.0
SETTLE_POLL_S = 0.25
FRESH_S = 30.0


def publish_sealed(
    place: Place, path: str, folder: Path, describe: Callable[[], Manifest], progress: Progress | None = None
) -> Manifest:
    """Upload a folder's files, then its manifest; gives the manifest that stands there in the end.

    ``describe`` makes the manifest, which takes as long as reading the files: the place is asked meanwhile.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="mirage-describe")
    described = pool.submit(describe)
    pool.shutdown(wait=False)
    for _ in range(ATTEMPTS):
        present = place.sizes(path)
        there = _good(place, path) if MANIFEST in present else None
        if there is not None:
            described.cancel()
            return there
        before = records(place, path)
        mine = described.result().model_copy(update={"edition": before.edition})
        stands = _put(place, path, folder, mine, present, progress)
        if stands and _undisturbed(place, path, mine, before):
            return _settled(place, path, mine, SETTLE_S) if stands == "contended" else mine
        if stands:  # its folder was taken out of use while it was filled
            place.take(f"{path}/{MANIFEST}", mine.to_bytes())
    raise StoreUnavailable(
        f"{path} was taken out of use {ATTEMPTS} times while it was published to {place.url}: something else removes "
        "it; stop that, then run again"
    )


def _put(
    place: Place, path: str, folder: Path, mine: Manifest, present: Mapping[str, int], progress: Progress | None
) -> Literal["alone", "contended"] | None:
    """Upload the files and create the manifest; None where another stands there by now, or files went again."""
    upload_whole(place, path, folder, mine, present, progress)
    now = place.entries(path)
    if not _whole(folder, path, mine, {name: entry.size for name, entry in now.items()}):
        return None
    others = set() if place.local("") is not None else _contenders(now, mine)
    if others and _waited(place, path, mine) is not None:
        return None
    if not place.create(f"{path}/{MANIFEST}", mine.to_bytes()):
        return None
    return "contended" if others else "alone"


def _undisturbed(place: Place, path: str, mine: Manifest, before: Records) -> bool:
    """Whether nothing of mine was taken out of use before my manifest stood there."""
    if not records(place, path).names <= before.names:
        return False
    # After the records: whoever removes both files and records removes the files first.
    return not size_faults(mine.files, place.sizes(f"{path}/{mine.folder}"))


def upload_whole(
    place: Place,
    path: str,
    folder: Path,
    manifest: Manifest,
    present: Mapping[str, int],
    progress: Progress | None = None,
    sources: Sources | None = None,
) -> None:
    """Upload a folder's files, but those that are ``present`` at the path with the right content."""
    there = _inside(present, manifest.folder)
    meter = Meter(f"storing {path}", sum(entry.size for entry in manifest.files), progress)
    upload(place, folder, manifest.files, f"{path}/{manifest.folder}", there, meter, sources)


def is_whole(place: Place, path: str, folder: Path, manifest: Manifest) -> bool:
    """Whether all files have arrived; False where some have gone again, ArtifactError where the folder has changed."""
    return _whole(folder, path, manifest, place.sizes(path))


def _whole(folder: Path, path: str, manifest: Manifest, names: Mapping[str, int]) -> bool:
    faults = size_faults(manifest.files, _inside(names, manifest.folder))
    if faults:
        _check_unchanged(folder, manifest, path)
        logger.warning("%s was not stored whole (%s); stored again", path, "; ".join(faults))
    return not faults


def _inside(names: Mapping[str, int], folder: str) -> dict[str, int]:
    return {name.removeprefix(f"{folder}/"): size for name, size in names.items() if name.startswith(f"{folder}/")}


def _good(place: Place, path: str) -> Manifest | None:
    """The manifest of a complete artifact; a faulty one is taken out of use first, so that its place is free."""
    try:
        data = place.read(f"{path}/{MANIFEST}")
    except FileNotFoundError:
        return None
    there = find_sealed(place, path)
    if there is None:
        retire(place, path, data, file_folders(place, path), "faulty when it was published again")
    return there


def _contenders(names: Mapping[str, Entry], mine: Manifest) -> set[str]:
    """The folders of those who may put a manifest for other content in a moment: they have just stored files."""
    newest: dict[str, float] = {}
    for name, entry in names.items():
        folder = name.split("/")[0]
        if folder.startswith(FILES):
            newest[folder] = max(entry.modified, newest.get(folder, 0.0))
    now = max(newest.values(), default=0.0)
    edition = mine.folder.split("-")[2:]  # another one is out of use, whoever stores it
    fresh = {folder for folder, last in newest.items() if folder.split("-")[2:] == edition and last > now - FRESH_S}
    return fresh - {mine.folder}


def _waited(place: Place, path: str, mine: Manifest) -> Manifest | None:
    """The manifest that another publisher has put while mine waited for its turn; None when that has come.

    Many S3 servers cannot create an object only where there is none when several do it at once (Swift lets nine of
    ten such races through), and a reader must not see one manifest replaced by another. Whoever puts a manifest has
    put its files before. So who sees no others' files goes first, at once; the others wait until that one is done,
    then go one after the other by name, each with time to see the one before. Who is before is looked up anew each
    time: of two, one may have listed before the other's files were there.
    """
    waited = 0
    while waited <= sum(folder < mine.folder for folder in _contenders(place.entries(path), mine)):
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            there = find_sealed(place, path)
            if there is not None:
                return there
            time.sleep(SETTLE_POLL_S)
        waited += 1
    return None


def _settled(place: Place, path: str, mine: Manifest, seconds: float) -> Manifest:
    """The manifest that stands there for good after mine was created: the last one, should two have come through."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            winner = read_sealed(place, path)
        except (FileNotFoundError, ArtifactDamaged):
            return mine  # taken out of use or removed since: the next who asks for it is told so
        if time.monotonic() >= deadline:
            return winner
        time.sleep(SETTLE_POLL_S)


def _check_unchanged(folder: Path, manifest: Manifest, path: str) -> None:
    for entry in manifest.files:
        size = (folder / entry.name).stat().st_size if (folder / entry.name).is_file() else None
        if size != entry.size:
            raise ArtifactError(
                f"{path} was not stored whole: {folder / entry.name} had {entry.size} bytes and now has {size}. "
                f"Was {folder} still written to?"
            )
