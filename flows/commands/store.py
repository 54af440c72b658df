"""``mirage store ls|show|verify``: look into the store."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.table import Table

from flows.commands.printing import console
from mirage_core.errors import ArtifactDamaged
from mirage_core.types import Artifact
from tasks.places import open_store


def list_artifacts(kind: str | None, store: str | None, *, as_json: bool) -> None:
    """Print the artifacts, newest first."""
    found = open_store(store).list(kind)
    if as_json:
        console.print_json(json.dumps([artifact.model_dump(mode="json") for artifact in found]))
        return
    table = Table("path", "digest", "summary", box=None, pad_edge=False)
    for artifact in found:
        table.add_row(artifact.path, artifact.digest[:12], brief(artifact))
    console.print(table)
    console.print(f"{len(found)} artifacts in {open_store(store).url}", markup=False)


def show_artifact(reference: str, store: str | None, *, as_json: bool) -> None:
    """Print one artifact's manifest."""
    opened = open_store(store)
    artifact = opened.get(reference)
    manifest = opened.manifest(artifact)
    files = [asdict(entry) for entry in manifest.files]
    about = {name: value for name, value in manifest.about.items() if as_json or name != "settings"}
    shown = {
        "path": artifact.path,
        "digest": artifact.digest,
        "summary": artifact.summary,
        "about": about,
        "files": files,
    }
    if as_json:
        console.print_json(json.dumps(shown))
        return
    for name, value in shown.items():
        text = json.dumps(value, indent=1, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
        console.print(f"{name}: {text}", markup=False)


def verify(reference: str | None, store: str | None) -> None:
    """Read every byte; ArtifactDamaged names the faults of every bad artifact."""
    opened = open_store(store)
    artifacts = [opened.get(reference)] if reference else opened.list()
    faulty: list[str] = []
    for artifact in artifacts:
        faults = opened.verify(artifact)
        console.print(f"{'damaged' if faults else 'good':8} {artifact.path}", markup=False)
        faulty += [f"{artifact.path}: {fault}" for fault in faults]
    if faulty:
        raise ArtifactDamaged(
            "\n".join(faulty) + "\nRemove the damaged artifact's folder from the store, then run the recipe again: "
            "only its stage and what changes after it run"
        )


def brief(artifact: Artifact) -> str:
    """A few figures of an artifact in one line."""
    plain = {name: value for name, value in artifact.summary.items() if isinstance(value, (str, int, float))}
    return ", ".join(f"{name} {value}" for name, value in plain.items())[:100]
