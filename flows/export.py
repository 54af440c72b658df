"""A trained model for others: its files, and its card with the scores of its newest evaluation.

The bytes of an artifact depend on its identity alone, so commit, versions and scores are added only on export.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from flows.trained import artifact_of, find_checkpoint, read_metadata, trained_method
from mirage_core.errors import InputError
from mirage_core.model.card import ABOUT_FILE
from mirage_core.model.export import Adapter, Export, plan_export, write_export
from mirage_core.pipeline.run_record import RunRecord
from mirage_core.store import Store
from mirage_core.store.manifest import describe_folder, digest_of


def plan_model_export(reference: str | None, store: Store, adapter: Adapter, licence: str | None) -> tuple[str, Export]:
    """Return the name of a model (as ``find_checkpoint`` finds it), and the files of its export."""
    checkpoint = find_checkpoint(reference, None, store)
    metadata: dict[str, Any] = {**read_metadata(checkpoint.folder), **checkpoint.provenance}
    scores = newest_scores(store, digest_of(describe_folder(checkpoint.folder)))
    if scores:
        metadata["scores"] = scores
    if licence is not None:
        metadata["licence"] = licence
    return checkpoint.name, plan_export(checkpoint.folder, metadata, adapter)


def newest_scores(store: Store, digest: str) -> list[dict[str, Any]]:
    """Return the score rows of a model's newest evaluation by each method."""
    scores: dict[str, list[dict[str, Any]]] = {}
    for artifact in store.list("evaluation"):
        model = store.manifest(artifact).about.get("inputs", {}).get("model", {})
        method = str(artifact.summary.get("method"))
        if model.get("digest") == digest and method not in scores:
            scores[method] = list(artifact.summary["scores"])
    return [row for method in sorted(scores) for row in scores[method]]


def export_on_finish(record: RunRecord, store: Store, folder: Path) -> bool:
    """Export a run's furthest trained model to ``folder``; return False where the run trained none.

    The model of an earlier run is replaced in one move; a folder that already holds this model stays untouched.

    Raises:
        InputError: the folder holds something that is no model of this project.
    """
    method = trained_method(record)
    if method is None:
        return False
    _, export = plan_model_export(artifact_of(store, record, method.stage).path, store, "keep", None)
    if not _is_written(export, folder):
        _replace(export, folder)
    return True


def _is_written(export: Export, folder: Path) -> bool:
    """Whether a folder holds this export: texts by their content, files by their size."""
    sizes = {name: path.stat().st_size for name, path in export.files.items()}
    same = all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())
    return same and all(
        (folder / name).is_file() and (folder / name).read_bytes() == text for name, text in export.written.items()
    )


def _replace(export: Export, folder: Path) -> None:
    """Write beside the folder, then rename: a reader finds either the old model or the new one, complete."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / ABOUT_FILE).is_file())):
        raise InputError(f"{folder} exists and holds no model of an earlier run: choose another with --model-folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{age}") for age in ("new", "old"))
    try:
        write_export(export, new)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
