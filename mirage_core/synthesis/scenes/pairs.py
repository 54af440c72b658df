"""Pairs of a description and a frame to fine-tune CogVideoX on: a JSONL file with images beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mirage_core.benchmarks.io.jsonl import read_image_file, read_rows
from mirage_core.errors import DataError


@dataclass(frozen=True, slots=True)
class ScenePair:
    """The description of a scene, and the frame that shows it."""

    description: str
    frame: Image.Image


def read_pairs(file: Path) -> list[ScenePair]:
    """Read the pairs of a JSONL file of {description, image}; DataError names the line of the first error."""
    pairs = []
    for row in read_rows(file):
        description = row.text("description").strip()
        if not description:
            raise DataError(f"{row.where}: the description is empty; say what the frame shows")
        _, image = read_image_file(row, "image", row.text("image"))
        pairs.append(ScenePair(description, image.convert("RGB")))
    return pairs
