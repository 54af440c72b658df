"""The folder a finished run leaves: its furthest trained model with the card, scores and all, beside the store.

An artifact's bytes depend on its identity alone, so commit, versions and scores cannot stand in it: they stand here.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from flows.exported import exported
from flows.trained import TRAINED, artifact_of, trained_step
from mirage_core.errors import InputError
from mirage_core.model.export import ABOUT_FILE, Export, write_export
from mirage_core.pipeline.run_record import RunRecord
from mirage_core.store import Store


def take_away(record: RunRecord, store: Store, folder: Path) -> bool:
    """Leave a run's furthest trained model in ``folder``; False where the run trained none.

    A model left there by a run before is replaced, in one move; a folder that already is this one stays untouched.

    Raises:
        InputError: the folder holds something that is no model of this project.
    """
    if not any(stage.name in TRAINED and stage.path for stage in record.stages):
        return False
    step, _ = trained_step(record)
    _, made = exported(artifact_of(store, record, step).path, store, "keep", None)
    if not _is_there(made, folder):
        _replace(made, folder)
    return True


def _is_there(made: Export, folder: Path) -> bool:
    """Whether a folder holds this export: the words written anew, and the files by name and size."""
    sizes = {name: path.stat().st_size for name, path in made.files.items()}
    same = all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())
    return same and all(
        (folder / name).is_file() and (folder / name).read_bytes() == told for name, told in made.written.items()
    )


def _replace(made: Export, folder: Path) -> None:
    """Write beside the folder first, so that whoever looks finds the old model or the new one, whole."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / ABOUT_FILE).is_file())):
        raise InputError(f"{folder} exists and is no model of a run before: name another with --model-folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{age}") for age in ("new", "old"))
    try:
        write_export(made, new)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
