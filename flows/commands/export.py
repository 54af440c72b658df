"""``mirage export``: a trained model as a folder for others, with its card."""

from __future__ import annotations

from pathlib import Path

from flows.commands.printing import console
from flows.exported import exported, size
from mirage_core.model.export import Adapter, write_export
from tasks.paths import open_store


def export(reference: str, folder: Path, adapter: Adapter, licence: str | None, store: str | None) -> None:
    """Write the folder, and say what is in it."""
    target = folder.expanduser()
    name, made = exported(reference, open_store(store), adapter, licence)
    write_export(made, target)
    count = len(made.files) + len(made.written)
    console.print(f"{name} -> {target}: {count} files, {size(made.size)}", markup=False)
