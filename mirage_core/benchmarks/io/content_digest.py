"""One digest for the content of each local source: a problem's identity depends on the data, not on its path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mirage_core.benchmarks.io.jsonl import is_file, other_spelling, read_lines
from mirage_core.config import PUBLIC_SECTIONS, ProblemSettings
from mirage_core.errors import DataError
from mirage_core.recipes.task_file import read_task
from mirage_core.store import fingerprint
from mirage_core.store.digests import DigestMemory

_DIGESTS = DigestMemory()
PATH_SETTINGS = {
    "mental_rotation": (),
    "paper_folding": (),
    "jigsaw": ("pictures", "blink"),
    "sat": ("source",),
    "comt": ("source",),
    "vsp_folder": ("source",),
    "own": ("file",),
}


def sources_identity(settings: ProblemSettings) -> dict[str, Any]:
    """The settings of the sources in use, with the content's digest instead of a local path."""
    identity: dict[str, Any] = {}
    for name, keys in PATH_SETTINGS.items():
        section = getattr(settings, name)
        if section is not None:
            identity[name] = section.model_dump(mode="json")
            identity[name].update({key: content_of(identity[name][key]) for key in keys})
    for name in PUBLIC_SECTIONS:
        section = getattr(settings, name)
        if section is not None:
            identity[name] = {**section.model_dump(mode="json"), "source": content_of(_with_images(section.source))}
    if settings.task is not None:  # without its path and the other files it may read
        options = settings.task.model_dump(mode="json", exclude={"module"})
        identity["task"] = {**options, "sha256": read_task(settings.task)[1]}
    if settings.own is not None:
        identity["own"]["pictures"] = _images_digest(Path(settings.own.file).expanduser())
    return identity


def _with_images(source: str | None) -> str | None:
    """The folder of a JSON-lines file, whose rows may name images beside it; any other source as it is."""
    path = Path(source).expanduser() if source else None
    return str(path.parent) if path is not None and path.is_file() and path.suffix == ".jsonl" else source


def _images_digest(file: Path) -> str:
    """The digest of all existing images that a user's JSONL file names."""
    digests: dict[str, str] = {}
    for row in read_lines(file):
        values = {} if isinstance(row, DataError) else row.values
        lists = [values.get(key) for key in ("images", "auxiliary_images")]
        names = [name for images in lists if isinstance(images, list) for name in images]
        for name in [*names, values.get("auxiliary_image")]:
            path = file.parent / name if isinstance(name, str) and name else None
            found = path if path is None or is_file(path) else other_spelling(path)
            if found is not None:
                digests[str(name)] = _DIGESTS.sha256(found)
    return fingerprint("pictures", 1, digests, {})


def _files_below(folder: Path) -> list[Path]:
    """All files but what git and the hub's client keep beside them, which differs between two downloads."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(file for file in files if not {".git", ".cache"} & set(file.relative_to(folder).parts))


def content_of(source: str | None) -> str | None:
    """The digest of a file or of all files below a folder; anything else (a hub id, "drawn") is returned as it is."""
    path = Path(source).expanduser() if source else None
    if path is None or not path.exists():
        return source
    files = _files_below(path) if path.is_dir() else [path]
    digests = {file.relative_to(path).as_posix(): _DIGESTS.sha256(file) for file in files}
    return fingerprint("contents", 1, digests, {})
