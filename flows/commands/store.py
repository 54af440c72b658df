"""``mirage store ls|show|verify|gc|point``: list, check, clean up and name the artifacts of the store."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from typing import Any

from rich.table import Table

from flows.commands.printing import console, print_line
from flows.pointers import describe_model
from mirage_core.errors import ArtifactDamaged, InputError
from mirage_core.store import Garbage, Pointer, Store
from mirage_core.types import Artifact
from tasks.paths import open_store

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


def list_artifacts(kind: str | None, store: str | None, *, as_json: bool) -> None:
    """Print the artifacts, newest first."""
    opened = open_store(store)
    artifacts = opened.list(kind)
    if as_json:
        console.print_json(json.dumps([artifact.model_dump(mode="json") for artifact in artifacts]))
        return
    table = Table("path", "digest", "summary", box=None, pad_edge=False)
    for artifact in artifacts:
        table.add_row(artifact.path, artifact.digest[:12], figures(artifact))
    console.print(table)
    print_line(f"{len(artifacts)} artifacts in {opened.url}")


def show_artifact(reference: str, store: str | None, *, as_json: bool) -> None:
    """Print one artifact's manifest."""
    opened = open_store(store)
    artifact = opened.get(reference)
    manifest = opened.manifest(artifact)
    files = [asdict(entry) for entry in manifest.files]
    about = {name: value for name, value in manifest.about.items() if as_json or name != "settings"}
    fields = {
        "path": artifact.path,
        "digest": artifact.digest,
        "summary": artifact.summary,
        "about": about,
        "files": files,
    }
    if as_json:
        console.print_json(json.dumps(fields))
        return
    for name, value in fields.items():
        text = json.dumps(value, indent=1, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
        print_line(f"{name}: {text}")


def verify(reference: str | None, store: str | None, *, repair: bool) -> None:
    """Read every byte; ArtifactDamaged names every fault. ``repair`` moves damaged artifacts to the quarantine."""
    opened = open_store(store)
    artifacts = [opened.get(reference)] if reference else opened.list()
    all_faults: list[str] = []
    for artifact in artifacts:
        faults = opened.verify(artifact)
        print_line(f"{'damaged' if faults else 'good':8} {artifact.path}")
        all_faults += [f"{artifact.path}: {fault}" for fault in faults]
        if faults and repair:
            all_faults.append(_quarantine(opened, artifact, "; ".join(faults)))
    if not reference:
        all_faults += _unreadable(opened, repair=repair)
    if all_faults:
        way_out = "" if repair else "`mirage store verify --repair` takes damaged artifacts out of use. "
        raise ArtifactDamaged("\n".join(all_faults) + f"\n{way_out}Run the recipe again: only their stages run")


def collect(older_than: str, keep_runs: int | None, store: str | None, *, delete: bool, as_json: bool) -> None:
    """Print what nothing refers to any more, and remove it where ``delete`` is set."""
    opened = open_store(store)
    garbage = opened.garbage(parse_age(older_than), keep_runs=keep_runs)
    removed = opened.collect(garbage) if delete else []
    if as_json:
        entries = [_garbage_as_json(item, removed if delete else None) for item in garbage]
        console.print_json(json.dumps({"deleted": delete, "garbage": entries}))
        return
    now = time.time()
    table = Table("sort", "path", "bytes", "age", "why", box=None, pad_edge=False)
    for item in garbage:
        kept = "; is in use again and stays" if delete and item not in removed else ""
        table.add_row(item.sort, item.path, f"{item.size:,}", _age(now - item.since), item.why + kept)
    console.print(table)
    items, result = (removed, "removed") if delete else (garbage, "could go: `mirage store gc --delete` removes them")
    print_line(f"{len(items)} things with {sum(item.size for item in items):,} bytes in {opened.url} {result}")


def parse_age(text: str) -> float:
    """Return ``90s``, ``30m``, ``2h`` or ``7d`` in seconds; InputError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise InputError(f"got the age {text!r}, expected a number and s, m, h or d, such as 2h or 7d")
    return float(match[1]) * _UNITS[match[2]]


def _garbage_as_json(item: Garbage, removed: list[Garbage] | None) -> dict[str, Any]:
    data = {name: value for name, value in asdict(item).items() if name != "upload"}
    return data if removed is None else data | {"removed": item in removed}


def _age(seconds: float) -> str:
    for unit in ("d", "h", "m"):
        if seconds >= _UNITS[unit]:
            return f"{seconds / _UNITS[unit]:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _quarantine(store: Store, artifact: Artifact, fault: str) -> str:
    record = store.quarantine(artifact, fault)
    return f"{artifact.path}: taken out of use ({record})" if record else f"{artifact.path}: good when read again"


def _unreadable(store: Store, *, repair: bool) -> list[str]:
    """Return the faults of artifacts whose manifest cannot be read, which no list shows."""
    faults = []
    for artifact, fault in store.unreadable():
        print_line(f"damaged  {artifact.path}")
        faults.append(fault)
        if repair:
            faults.append(_quarantine(store, artifact, fault))
    return faults


def figures(artifact: Artifact) -> str:
    """Return the figures of an artifact's summary in one line."""
    plain = {name: value for name, value in artifact.summary.items() if isinstance(value, (str, int, float))}
    return ", ".join(f"{name} {value}" for name, value in plain.items())[:100]


def point(name: str, reference: str, store: str | None) -> None:
    """Move the pointer; for a model its method, settings and problems are saved with it."""
    opened = open_store(store)
    artifact = opened.get(reference)
    about = describe_model(opened, artifact) if artifact.kind == "model" else {}
    show_pointer(name, opened.point(name, artifact, about=about))


def show_pointer(name: str, pointer: Pointer) -> None:
    """Print what a pointer names."""
    method = f" ({pointer.about['method']})" if "method" in pointer.about else ""
    print_line(f"{name} -> {pointer.artifact.path}{method}")
