"""A trained model as others get it: its folder, and its card with the scores of its newest evaluation."""

from __future__ import annotations

from typing import Any

from flows.trained import about_folder, checkpoint
from mirage_core.model.export import Adapter, Export, export_of
from mirage_core.store import Store
from mirage_core.store.manifest import describe_folder, digest_of


def exported(reference: str | None, store: Store, adapter: Adapter, licence: str | None) -> tuple[str, Export]:
    """The name of a model (as ``checkpoint`` finds it), and what an export of it holds."""
    chosen = checkpoint(reference, None, store)
    about: dict[str, Any] = {**about_folder(chosen.folder), **chosen.told}
    scores = scores_of(store, digest_of(describe_folder(chosen.folder)))
    if scores:
        about["scores"] = scores
    if licence is not None:
        about["licence"] = licence
    return chosen.name, export_of(chosen.folder, about, adapter)


def scores_of(store: Store, digest: str) -> list[dict[str, Any]]:
    """The rows of the newest evaluation of the model of a digest, by each method that it was evaluated by."""
    found: dict[str, list[dict[str, Any]]] = {}
    for artifact in store.list("evaluation"):
        given = store.manifest(artifact).about.get("inputs", {}).get("model", {})
        method = str(artifact.summary.get("method"))
        if given.get("digest") == digest and method not in found:
            found[method] = list(artifact.summary["scores"])
    return [row for method in sorted(found) for row in found[method]]


def size(count: int) -> str:
    """Bytes for people."""
    value, units = float(count), ["B", "KB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def listed(export: Export) -> list[tuple[str, int]]:
    """Every file of an export with its bytes, by name."""
    sizes = {name: path.stat().st_size for name, path in export.files.items()}
    return sorted({**sizes, **{name: len(content) for name, content in export.written.items()}}.items())
