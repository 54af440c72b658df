"""Images to cut: a folder of image files, a data set with a column of images, or drawn by a program."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mirage_core.benchmarks.io.hub_rows import published_rows
from mirage_core.benchmarks.io.jsonl import MAX_IMAGE_BYTES, decode_image
from mirage_core.benchmarks.splits import TEST_SHARE, VALIDATION_SHARE
from mirage_core.config import JigsawData
from mirage_core.errors import DataError
from mirage_core.image_files import SUFFIXES
from mirage_core.worlds.jigsaw import draw_image

DRAWN = "drawn"
# Digests assign drawn images to splits: some more are drawn than expected, so that each split is filled.
_SPARE_SHARE, _SPARE = 1.2, 50


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image and its name: its path in the folder, its row, or its number."""

    name: str
    image: Image.Image


def source_images(data: JigsawData, seed: int) -> Iterator[SourceImage]:
    """Yield every image of the source, in a fixed order; DataError names one that cannot be read."""
    folder = Path(data.pictures).expanduser()
    if data.pictures == DRAWN:
        yield from _drawn(data, seed)
    elif folder.is_dir() and not any(folder.rglob("*.parquet")):
        yield from _folder(folder)
    else:
        for row in published_rows(data.pictures, split=data.pictures_split):
            encoded = row.image(row.value(data.pictures_column), data.pictures_column)
            yield SourceImage(f"row-{row.number}", decode_image(encoded, row.where))


def _drawn(data: JigsawData, seed: int) -> Iterator[SourceImage]:
    shares = {data.test: TEST_SHARE, data.validation: VALIDATION_SHARE, data.train: 1 - TEST_SHARE - VALIDATION_SHARE}
    needed = max(count / share for count, share in shares.items())
    for number in range(round(needed * _SPARE_SHARE) + _SPARE):
        yield SourceImage(f"drawn-{number}", draw_image(np.random.default_rng([seed, number]), data.side_px))


def _folder(folder: Path) -> Iterator[SourceImage]:
    root = folder.resolve()
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder} holds no image file: name a folder of images, a data set, or {DRAWN!r}")
    for file in files:
        if not file.resolve().is_relative_to(root):
            raise DataError(f"{file} is a link out of {folder}: copy the image into the folder")
        if file.stat().st_size > MAX_IMAGE_BYTES:
            raise DataError(f"{file} has {file.stat().st_size} bytes; at most {MAX_IMAGE_BYTES} are read")
        yield SourceImage(file.relative_to(root).as_posix(), decode_image(file.read_bytes(), str(file)))
