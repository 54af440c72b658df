"""What local sources hold, as one digest each: a problem's identity depends on the data, never on where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mirage_core.benchmarks.io.jsonl import read_lines
from mirage_core.config import PUBLIC_SECTIONS, ProblemSettings
from mirage_core.errors import DataError
from mirage_core.recipes.task_file import read_task
from mirage_core.store import fingerprint
from mirage_core.store.digests import DigestMemory

_DIGESTS = DigestMemory()
NAMED_IN = {
    "jigsaw": ("pictures", "blink"),
    "sat": ("source",),
    "comt": ("source",),
    "vsp_folder": ("source",),
    "own": ("file",),
}


def sources_identity(settings: ProblemSettings) -> dict[str, Any]:
    """The settings of the sources that are used, with the content's digest in the place of a local path."""
    chosen: dict[str, Any] = {}
    for name, keys in NAMED_IN.items():
        section = getattr(settings, name)
        if section is not None:
            chosen[name] = section.model_dump(mode="json")
            chosen[name].update({key: content_of(chosen[name][key]) for key in keys})
    for name in PUBLIC_SECTIONS:
        section = getattr(settings, name)
        if section is not None:
            chosen[name] = {**section.model_dump(mode="json"), "source": content_of(_with_pictures(section.source))}
    if settings.task is not None:  # not its place, nor the other files it may read
        told = settings.task.model_dump(mode="json", exclude={"module"})
        chosen["task"] = {**told, "sha256": read_task(settings.task)[1]}
    if settings.own is not None:
        chosen["own"]["pictures"] = _pictures_of(Path(settings.own.file).expanduser())
    return chosen


def _with_pictures(source: str | None) -> str | None:
    """The folder of a JSON-lines file: its rows may name the pictures beside it."""
    path = Path(source).expanduser() if source else None
    return str(path.parent) if path is not None and path.is_file() and path.suffix == ".jsonl" else source


def _pictures_of(file: Path) -> str:
    """The digest of every picture that a user's JSONL file names and that is there."""
    held: dict[str, str] = {}
    for row in read_lines(file):
        values = {} if isinstance(row, DataError) else row.values
        images = values.get("images")
        for name in [*(images if isinstance(images, list) else []), values.get("auxiliary_image")]:
            if isinstance(name, str) and name and (file.parent / name).is_file():
                held[name] = _DIGESTS.sha256(file.parent / name)
    return fingerprint("pictures", 1, held, {})


def content_of(source: str | None) -> str | None:
    """The digest of a file or of every file below a folder; anything else (a hub id, "drawn") is its own name."""
    path = Path(source).expanduser() if source else None
    if path is None or not path.exists():
        return source
    files = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
    held = {file.relative_to(path).as_posix(): _DIGESTS.sha256(file) for file in files}
    return fingerprint("contents", 1, held, {})
