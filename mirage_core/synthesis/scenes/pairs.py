"""Pairs of a description and a frame, on which CogVideoX is fine-tuned: a JSONL file with pictures beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mirage_core.benchmarks.io.jsonl import read_picture_file, read_rows
from mirage_core.errors import DataError


@dataclass(frozen=True, slots=True)
class ScenePair:
    """A scene in words, and the frame that shows it."""

    description: str
    frame: Image.Image


def read_pairs(file: Path) -> list[ScenePair]:
    """Every pair of a JSONL file of {description, image}; DataError names the line of the first fault."""
    pairs = []
    for row in read_rows(file):
        description = row.text("description").strip()
        if not description:
            raise DataError(f"{row.where}: the description is empty; say what the frame shows")
        _, picture = read_picture_file(row, "image", row.text("image"))
        pairs.append(ScenePair(description, picture.convert("RGB")))
    return pairs
