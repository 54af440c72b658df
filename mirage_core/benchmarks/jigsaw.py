"""Jigsaw: which of two pieces is the missing lower right quarter of an image.

Evaluated on BLINK's Jigsaw rows (``BLINK-Benchmark/BLINK``, configuration Jigsaw, split val); trained on images cut
here. An image and its near duplicates (perceptual hash) stay in one split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from mirage_core.benchmarks.benchmark import Benchmark
from mirage_core.benchmarks.blink import OFFICIAL_RULE, undecided
from mirage_core.benchmarks.io.faults import converted
from mirage_core.benchmarks.io.hub_rows import PublishedRow, published_rows
from mirage_core.benchmarks.io.image_sources import source_images
from mirage_core.benchmarks.multiple_choice import (
    LETTER_RULES,
    LETTERS,
    prompt,
    right_letter,
    scorer,
    with_options,
)
from mirage_core.benchmarks.near_duplicates import near_groups, perceptual_hash
from mirage_core.benchmarks.official import letters as official
from mirage_core.benchmarks.splits import split_of_form
from mirage_core.config import JigsawData
from mirage_core.errors import DataError
from mirage_core.image_files import read_rgb
from mirage_core.types import Problem, Progress, ProgressEvent, Split
from mirage_core.worlds.jigsaw import cut_jigsaw, near_piece, same_piece
from mirage_core.worlds.jigsaw.cut import centred_square
from mirage_core.worlds.maze import picture_bytes

NAME = "jigsaw"
GROUPS = ("jigsaw",)
CONFIG, PUBLISHED_SPLIT = "Jigsaw", "val"
OPTIONS = ("the second image", "the third image")
# BLINK's question, character for character: it is part of the benchmark.
QUESTION = (
    "Given the first image with the lower right corner missing, can you tell which one of the second image or the "
    "third image is the missing part? Imagine which image would be more appropriate to place in the missing spot. You "
    "can also carefully observe and compare the edges of the images."
)
_SHORT = "<image><image><image>\nPiece"
_HISTOGRAM_BINS = 4


def load(file: str | Path, split: Split = "test") -> list[Problem]:
    """BLINK's Jigsaw rows of a file, folder or hub id; DataError for rows whose answer is hidden."""
    rows = published_rows(str(file), config=CONFIG, split=PUBLISHED_SPLIT)
    return [*converted(rows, lambda row: _published(row, split))]


def _published(row: PublishedRow, split: Split) -> Problem:
    images = tuple(row.image(row.value(f"image_{at}"), f"image_{at}") for at in (1, 2, 3))
    answer, choices = row.text("answer"), row.texts("choices")
    if answer == "hidden":
        raise DataError(f"{row.where}: the answer is hidden; BLINK publishes answers of the split val only")
    try:
        letter = right_letter(answer, choices)
    except DataError as error:
        raise DataError(f"{row.where}: {error}") from error
    identity = f"blink-{row.text('idx') if 'idx' in row.values else row.number}"
    return _problem(identity, split, images, letter, {"source": "BLINK"})


def _problem(
    identity: str, split: Split, images: tuple[bytes, ...], answer: str, facts: Mapping[str, object]
) -> Problem:
    question = with_options("<image>\n<image>\n<image>\n" + QUESTION, OPTIONS)
    return Problem(
        id=identity,
        benchmark=NAME,
        split=split,
        group=GROUPS[0],
        question=question,
        images=images,
        answer=answer,
        facts={"options": list(OPTIONS), "short": _SHORT, **facts},
    )


@dataclass(slots=True)
class _ImageIndex:
    """The result of the first pass over all images: name, hash, colour histogram and encoded square of each."""

    names: list[str] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)
    histograms: list[np.ndarray] = field(default_factory=list)
    squares: list[bytes] = field(default_factory=list)


def jigsaw_problems(data: JigsawData, seed: int, progress: Progress) -> Iterator[Problem]:
    """Yield problems cut from the images of the settings, the requested number of each split, in the images' order.

    DataError if there are too few images: it says how many there are and how many were unusable.
    """
    wanted: dict[Split, int] = {"train": data.train, "validation": data.validation, "test": data.test}
    index = _index_images(data, seed, progress)
    splits = _splits(index)
    partners = _partners(index, splits) if data.wrong == "near" else None
    counts = dict.fromkeys(wanted, 0)
    unusable = 0
    for number, square in enumerate(index.squares):
        split = splits[number]
        if counts[split] >= wanted[split]:
            continue
        other = index.squares[partners[number]] if partners and partners[number] >= 0 else None
        problem = _cut(data, seed, split, index.names[number], square, other)
        if problem is None:
            unusable += 1
            continue
        counts[split] += 1
        yield problem
        progress(ProgressEvent(stage="problems", message=NAME, step=sum(counts.values()), total=sum(wanted.values())))
    missing = {split: wanted[split] - count for split, count in counts.items() if count < wanted[split]}
    if missing:
        raise DataError(
            f"jigsaw: {missing} problems are missing. {data.pictures!r} has {len(index.names)} images, "
            f"{unusable} of them with no wrong piece that looks different; give more images or ask for fewer problems"
        )


def _index_images(data: JigsawData, seed: int, progress: Progress) -> _ImageIndex:
    """Read every image once: its square, hash and histogram. Drawn images are made in the number needed."""
    index = _ImageIndex()
    for source in source_images(data, seed):
        square = centred_square(source.image, data.side_px)
        index.names.append(source.name)
        index.hashes.append(perceptual_hash(square))
        index.histograms.append(_histogram(square))
        index.squares.append(picture_bytes(square))
        if len(index.names) % 200 == 0:
            progress(ProgressEvent(stage="problems", message=f"jigsaw: {len(index.names)} images read"))
    return index


def _splits(index: _ImageIndex) -> list[Split]:
    """The split of each image: that of its group of near duplicates, by the digest of the group's first name."""
    groups = near_groups(index.hashes)
    return [split_of_form(f"jigsaw/{index.names[group]}") for group in groups]


def _partners(index: _ImageIndex, splits: list[Split]) -> list[int]:
    """For each image the one of the same split with the nearest colours that is not its duplicate; -1 if none."""
    histograms, groups = np.stack(index.histograms), np.array(near_groups(index.hashes))
    split_names = np.array(splits)
    partners = []
    for number, histogram in enumerate(histograms):
        distances = np.abs(histograms - histogram).sum(axis=1)
        distances[(split_names != split_names[number]) | (groups == groups[number])] = np.inf
        nearest = int(distances.argmin())
        partners.append(nearest if np.isfinite(distances[nearest]) else -1)
    return partners


def _cut(data: JigsawData, seed: int, split: Split, name: str, square: bytes, other: bytes | None) -> Problem | None:
    """The problem of one image; None if no wrong piece differs enough."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    rng = np.random.default_rng(list(digest[:8]))
    image = _decoded(square)
    wrong = near_piece(image, _decoded(other)) if other is not None else None
    wrong = wrong or same_piece(rng, image)
    if wrong is None:
        return None
    cut = cut_jigsaw(image, data.side_px, wrong)
    right_first = bool(rng.integers(2))
    pieces = (cut.right, cut.wrong) if right_first else (cut.wrong, cut.right)
    images = tuple(picture_bytes(part) for part in (cut.reference, *pieces))
    facts = {"source": name, "wrong": "near" if other is not None else "same"}
    return _problem(f"{NAME}-{digest.hex()[:16]}", split, images, LETTERS[0 if right_first else 1], facts)


def _histogram(square: Image.Image) -> np.ndarray:
    """Shares of colours in 4 x 4 x 4 bins [64]."""
    pixels = np.asarray(square, dtype=np.uint8).reshape(-1, 3) // (256 // _HISTOGRAM_BINS)
    index = (pixels[:, 0].astype(int) * _HISTOGRAM_BINS + pixels[:, 1]) * _HISTOGRAM_BINS + pixels[:, 2]
    return np.bincount(index, minlength=_HISTOGRAM_BINS**3) / len(index)


def _decoded(data: bytes) -> Image.Image:
    return read_rgb(data, "a piece of a jigsaw")


BENCHMARK = Benchmark(
    NAME,
    GROUPS,
    (*LETTER_RULES, OFFICIAL_RULE),
    load,
    scorer(OFFICIAL_RULE, official.blink),
    prompt,
    official=OFFICIAL_RULE,
    undecided=undecided,
)
