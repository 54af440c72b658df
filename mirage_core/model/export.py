"""Export of a model folder: its files with or without adapters, a new mirage.json and a card with the scores.

Weight files are copied unread.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mirage_core.errors import InputError
from mirage_core.model.card import ABOUT_FILE, CARD_FILE, model_card

ADAPTER_FOLDER = "adapter"
Adapter = Literal["keep", "drop", "only"]
"""keep: merged weights and adapters; drop: merged weights without adapters; only: adapters, for peft."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """The content of an exported folder by file name: ``files`` to copy, and the content of those ``written`` anew."""

    files: Mapping[str, Path]
    written: Mapping[str, bytes]

    @property
    def size(self) -> int:
        """Total bytes."""
        return sum(path.stat().st_size for path in self.files.values()) + sum(map(len, self.written.values()))


def plan_export(folder: Path, about: Mapping[str, Any], adapter: Adapter = "keep") -> Export:
    """Return the content of an export; ``about`` (mirage.json with scores) decides the card.

    InputError for ``only`` of a model without adapters, and for a folder that is not a model folder.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if not any(part.startswith(".") for part in name.split("/"))]
    if "config.json" not in names:
        raise InputError(f"{folder} has no config.json, so it is no model folder: pass a model folder or an artifact")
    adapter_files = [name for name in names if name.startswith(f"{ADAPTER_FOLDER}/")]
    if adapter == "only" and not adapter_files:
        raise InputError(
            f"{folder} has no {ADAPTER_FOLDER}/: the last stage trained all weights (model.lora was not set); "
            "export it without --adapter only"
        )
    files = {
        "keep": {name: folder / name for name in names},
        "drop": {name: folder / name for name in names if name not in adapter_files},
        "only": {name.removeprefix(f"{ADAPTER_FOLDER}/"): folder / name for name in adapter_files},
    }[adapter]
    metadata = {**about, "adapter": adapter} if adapter_files else dict(about)
    text = json.dumps(metadata, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    written = {ABOUT_FILE: text.encode(), CARD_FILE: model_card(metadata).encode()}
    return Export(files={name: path for name, path in files.items() if name not in written}, written=written)


def write_export(export: Export, target: Path) -> None:
    """Write an export into a new or empty folder; InputError for any other."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not an empty folder: name a new one")
    for name, path in export.files.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)
    target.mkdir(parents=True, exist_ok=True)
    for name, content in export.written.items():
        (target / name).write_bytes(content)
