"""``mirage store ls|show|verify|gc``: look into the store, and tidy it."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from typing import Any

from rich.table import Table

from flows.commands.printing import console
from mirage_core.errors import ArtifactDamaged, InputError
from mirage_core.store import Garbage, Store
from mirage_core.types import Artifact
from tasks.paths import open_store

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


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


def verify(reference: str | None, store: str | None, *, repair: bool) -> None:
    """Read every byte; ArtifactDamaged names the faults of every bad artifact, taken out of use with ``repair``."""
    opened = open_store(store)
    artifacts = [opened.get(reference)] if reference else opened.list()
    faulty: list[str] = []
    for artifact in artifacts:
        faults = opened.verify(artifact)
        console.print(f"{'damaged' if faults else 'good':8} {artifact.path}", markup=False)
        faulty += [f"{artifact.path}: {fault}" for fault in faults]
        if faults and repair:
            faulty.append(_taken_out(opened, artifact, "; ".join(faults)))
    if not reference:
        faulty += _unreadable(opened, repair=repair)
    if faulty:
        way_out = "" if repair else "`mirage store verify --repair` takes what is damaged out of use. "
        raise ArtifactDamaged(
            "\n".join(faulty) + f"\n{way_out}Run the recipe again: only its stage and what changes after it run"
        )


def collect(older_than: str, keep_runs: int | None, store: str | None, *, delete: bool, as_json: bool) -> None:
    """Print what nothing needs any more, and remove it where ``delete`` is set."""
    opened = open_store(store)
    found = opened.garbage(seconds_of(older_than), keep_runs=keep_runs)
    gone = opened.collect(found) if delete else []
    if as_json:
        console.print_json(json.dumps({"deleted": delete, "garbage": [_told(item, delete, gone) for item in found]}))
        return
    now = time.time()
    table = Table("sort", "path", "bytes", "age", "why", box=None, pad_edge=False)
    for item in found:
        kept = "; came into use meanwhile and stays" if delete and item not in gone else ""
        table.add_row(item.sort, item.path, f"{item.size:,}", _age(now - item.since), item.why + kept)
    console.print(table)
    shown, size = (gone, "removed") if delete else (found, "could go: `mirage store gc --delete` removes them")
    freed = sum(item.size for item in shown)
    console.print(f"{len(shown)} things with {freed:,} bytes in {opened.url} {size}", markup=False)


def seconds_of(text: str) -> float:
    """``90s``, ``30m``, ``2h``, ``7d`` as seconds; InputError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if found is None:
        raise InputError(f"got the age {text!r}, expected a number and s, m, h or d, such as 2h or 7d")
    return float(found[1]) * _UNITS[found[2]]


def _told(item: Garbage, delete: bool, gone: list[Garbage]) -> dict[str, Any]:
    told = {name: value for name, value in asdict(item).items() if name != "upload"}
    return told | {"removed": item in gone} if delete else told


def _age(seconds: float) -> str:
    for unit in ("d", "h", "m"):
        if seconds >= _UNITS[unit]:
            return f"{seconds / _UNITS[unit]:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _taken_out(store: Store, artifact: Artifact, fault: str) -> str:
    record = store.quarantine(artifact, fault)
    return f"{artifact.path}: taken out of use ({record})" if record else f"{artifact.path}: good at a second look"


def _unreadable(store: Store, *, repair: bool) -> list[str]:
    """The artifacts whose manifest cannot be read, which no list shows."""
    told = []
    for artifact, fault in store.unreadable():
        console.print(f"damaged  {artifact.path}", markup=False)
        told.append(fault)
        if repair:
            told.append(_taken_out(store, artifact, fault))
    return told


def brief(artifact: Artifact) -> str:
    """A few figures of an artifact in one line."""
    plain = {name: value for name, value in artifact.summary.items() if isinstance(value, (str, int, float))}
    return ", ".join(f"{name} {value}" for name, value in plain.items())[:100]
