"""A model folder for others: what goes into it, with or without its adapters, and its card with the scores.

Weights are never read here: an artifact's files are taken as they are, card and mirage.json are written anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mirage_core.errors import InputError
from mirage_core.model.card import CARD_FILE, model_card

ABOUT_FILE = "mirage.json"
ADAPTER_FOLDER = "adapter"
Adapter = Literal["keep", "drop", "only"]
"""keep: merged weights, the adapters beside them; drop: merged weights alone; only: the adapters alone, for peft."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What a folder for others holds: by name the files of the model folder that go into it, and what is written."""

    files: Mapping[str, Path]
    written: Mapping[str, bytes]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(path.stat().st_size for path in self.files.values()) + sum(map(len, self.written.values()))


def export_of(folder: Path, about: Mapping[str, Any], adapter: Adapter = "keep") -> Export:
    """What an export of a model folder holds, ``about`` (mirage.json, scores added) deciding its card.

    InputError where the adapters alone are wanted of a model that has none, and for a folder that is no model's.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if "config.json" not in names:
        raise InputError(f"{folder} has no config.json, so it is no model folder: give a model folder or an artifact")
    inside = [name for name in names if name.startswith(f"{ADAPTER_FOLDER}/")]
    if adapter == "only" and not inside:
        raise InputError(
            f"{folder} has no {ADAPTER_FOLDER}/: the last stage trained all weights (model.lora was not set); "
            "export it without --adapter only"
        )
    chosen = {
        "keep": {name: folder / name for name in names},
        "drop": {name: folder / name for name in names if name not in inside},
        "only": {name.removeprefix(f"{ADAPTER_FOLDER}/"): folder / name for name in inside},
    }[adapter]
    told = {**about, "adapter": adapter} if inside else dict(about)
    text = json.dumps(told, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    written = {ABOUT_FILE: text.encode(), CARD_FILE: model_card(told).encode()}
    return Export(files={name: path for name, path in chosen.items() if name not in written}, written=written)


def write_export(export: Export, target: Path) -> None:
    """Write an export into a folder that is new or empty; InputError where it is neither."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not an empty folder: name a new one")
    for name, path in export.files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
    target.mkdir(parents=True, exist_ok=True)
    for name, content in export.written.items():
        (target / name).write_bytes(content)
