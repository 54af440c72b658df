"""``mirage store point``: let a name stand for an artifact."""

from __future__ import annotations

from flows.commands.printing import console
from flows.pointers import about_model
from mirage_core.store import Pointer
from tasks.paths import open_store


def point(name: str, reference: str, store: str | None) -> None:
    """Move the pointer; of a model its method, settings and problems are kept with it."""
    opened = open_store(store)
    artifact = opened.get(reference)
    about = about_model(opened, artifact) if artifact.kind == "model" else {}
    show_pointer(name, opened.point(name, artifact, about=about))


def show_pointer(name: str, pointer: Pointer) -> None:
    """Say what a name stands for."""
    method = f" ({pointer.about['method']})" if "method" in pointer.about else ""
    console.print(f"{name} -> {pointer.artifact.path}{method}", markup=False)
